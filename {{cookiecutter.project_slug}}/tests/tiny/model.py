from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, gelu

from my_run.batches.means import exact_mean

from .config import TrainConfig
from .data import NUM_FEATURES, DataInfo

Batch = tuple[Tensor, Tensor]
"""Points (batch, 16) float32 and classes (batch,) int64."""


class Block(nn.Module):
    """Residual block, (batch, width) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.layer = nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = gelu(self.layer(self.norm(x)))
        return x + residual


class Classifier(nn.Module):
    """Points (batch, 16) to logits (batch, num_classes)."""

    def __init__(self, num_classes: int = 10, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Linear(NUM_FEATURES, width)
        self.blocks = nn.Sequential(Block(width), Block(width))
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(width, num_classes)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(self.dropout(self.blocks(self.stem(inputs))))
        return logits


SHARD_UNITS = (Block,)
ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    return Classifier(num_classes=len(info["classes"]))


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    return (torch.rand(2, NUM_FEATURES),)


def compute_loss(model: nn.Module, batch: Batch) -> tuple[Tensor, int]:
    inputs, targets = batch
    logits = model(inputs)
    # In every program, mixed precision is for the model alone, not for its loss.
    assert not torch.is_autocast_enabled(logits.device.type)
    return cross_entropy(logits, targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: Batch) -> dict[str, Tensor]:
    inputs, targets = batch
    logits = model(inputs).float()
    prediction = logits.argmax(dim=1)
    return {
        "loss": cross_entropy(logits, targets, reduction="none"),
        "correct": prediction == targets,
        "prediction": prediction,
    }


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
