"""The model, its loss, and what is scored: replace this file, with `data.py`, by your own.

Nothing here knows devices, ranks or strategies. What the programs need of this file: `make_model`,
`compute_loss`, `ITEMS`, `score`, `summarize`, `BEST_RESULT` and `SHARD_UNITS`; `export` also needs
`example_inputs`.
"""

import math
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .batches.means import exact_mean
from .config import TrainConfig
from .data import DataInfo


class Block(nn.Module):
    """Pre-activation residual block, (batch, channels, height, width) to the same shape.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016, figure 4(e), with
    GroupNorm (Wu and He, 2018) for BatchNorm and SiLU for ReLU.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(width // 8, width)
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(width // 8, width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(nn.functional.silu(self.norm1(x)))
        residual: Tensor = self.conv2(nn.functional.silu(self.norm2(hidden)))
        return x + residual


class Classifier(nn.Module):
    """Images (batch, channels, size, size) to logits (batch, num_classes).

    Stages of one residual block each halve the size down to 4 pixels or less, and are pooled.
    """

    def __init__(
        self, channels: int, image_size: int, num_classes: int, dropout: float = 0.1
    ) -> None:
        super().__init__()
        num_stages = max(2, math.ceil(math.log2(image_size / 2)))
        widths = [min(32 * 2**stage, 256) for stage in range(num_stages)]
        self.stem = nn.Conv2d(channels, widths[0], kernel_size=3, padding=1)
        self.blocks = nn.ModuleList(map(Block, widths))
        self.downsamples = nn.ModuleList(
            nn.Conv2d(width, wider, kernel_size=2, stride=2) for width, wider in pairwise(widths)
        )
        self.norm = nn.GroupNorm(widths[-1] // 8, widths[-1])
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks[0](self.stem(images))
        for downsample, block in zip(self.downsamples, self.blocks[1:], strict=True):
            x = block(downsample(x))
        pooled = nn.functional.silu(self.norm(x)).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


SHARD_UNITS = (Block,)
"""Modules that FSDP2 shards and gathers as a unit: the repeated blocks."""

ITEMS = "samples"
"""What the loss is a mean over, and the log counts per second: samples, tokens, pixels."""

BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")
"""Which result of the validation is best: its checkpoint is kept, and `patience` counts by it."""


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return Classifier(info["channels"], info["image_size"], len(info["classes"]))


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    """Return inputs of the model's forward, for a batch of 2."""
    return (torch.rand(2, info["channels"], info["image_size"], info["image_size"]),)


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    """Return the sum of the losses of a batch, a scalar, and the number of items it is over."""
    images, targets = batch
    return cross_entropy(model(images), targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return what an evaluation keeps of each sample of a batch; each (batch, ...), any dtype."""
    images, targets = batch
    logits = model(images).float()
    prediction, loss = logits.argmax(dim=1), cross_entropy(logits, targets, reduction="none")
    return {"loss": loss, "correct": prediction == targets, "prediction": prediction}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the results of a split from the scores of all its samples, in their order."""
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
