"""The model, its loss, and what is scored: replace this file, with `data.py`, by your own.

Nothing here knows devices, ranks or strategies. What the programs need of this file: `make_model`,
`compute_loss`, `score`, `summarize`, `BEST_RESULT` and `SHARD_UNITS`.
"""

from typing import Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .batches.means import exact_mean
from .config import TrainConfig
from .data import DataInfo

Batch = tuple[Tensor, Tensor]
"""Images (batch, 1, 8, 8) float32 and classes (batch,) int64, as `data.py` returns them."""


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
    """Images (batch, 1, 8, 8) to logits (batch, 10): two stages of residual blocks, pooled."""

    def __init__(self, num_classes: int = 10, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList([Block(width), Block(2 * width)])
        self.downsample = nn.Conv2d(width, 2 * width, kernel_size=2, stride=2)
        self.norm = nn.GroupNorm(width // 4, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks[0](self.stem(images))
        x = self.blocks[1](self.downsample(x))
        pooled = nn.functional.silu(self.norm(x)).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


SHARD_UNITS = (Block,)
"""Modules that FSDP2 shards and gathers as a unit: the repeated blocks."""


BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")
"""Which result of the validation is best: its checkpoint is kept, and `patience` counts by it."""


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return Classifier(num_classes=len(info["classes"]))


def compute_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    """Return the sum of the losses of a batch, a scalar, and the number of items it is over."""
    images, targets = batch
    return cross_entropy(model(images), targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    """Return what an evaluation keeps of each sample of a batch; each (batch, ...), any dtype."""
    images, targets = batch
    logits = model(images).float()
    prediction = logits.argmax(dim=1)
    return {
        "loss": cross_entropy(logits, targets, reduction="none"),
        "correct": prediction == targets,
        "prediction": prediction,
    }


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the results of a split from the scores of all its samples, in their order."""
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
