"""A network of one hidden layer, 64-128-10."""

import torch
from torch import Tensor, nn

from .classification import BEST_RESULT, ITEMS, DataInfo, compute_loss, score, summarize
from .config import TrainConfig

# What the programs import of this file.
__all__ = ["BEST_RESULT", "ITEMS", "compute_loss", "score", "summarize"]

SHARD_UNITS = (nn.Linear,)


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Linear(128, 10))


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    """Return inputs of the model's forward, for a batch of 2."""
    return (torch.rand(2, 64),)
