"""A network of one hidden layer, 64-128-10."""

from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .batches.means import exact_mean
from .config import TrainConfig
from .data import DataInfo

SHARD_UNITS = (nn.Linear,)
ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    """Return inputs of the model's forward, for a batch of 2."""
    return (torch.rand(2, 64),)


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    """Return the sum of the losses of a batch, and the number of samples."""
    rows, targets = batch
    return cross_entropy(model(rows), targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return the loss of each sample of a batch, and whether its class is right."""
    rows, targets = batch
    logits = model(rows).float()
    losses = cross_entropy(logits, targets, reduction="none")
    return {"loss": losses, "correct": logits.argmax(dim=1) == targets}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the results of a split."""
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
