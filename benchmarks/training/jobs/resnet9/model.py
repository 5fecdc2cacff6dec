"""A ResNet-9 with BatchNorm, 6.6 million parameters.

Source: David Page, How to Train Your ResNet, 2018, part 4.
"""

import torch
from torch import Tensor, nn

from .classification import BEST_RESULT, ITEMS, DataInfo, compute_loss, score, summarize
from .config import TrainConfig
from .data import NUM_CLASSES, SIZE


def convolution(channels: int, width: int) -> nn.Sequential:
    """Return a convolution, BatchNorm and ReLU."""
    layer = nn.Conv2d(channels, width, kernel_size=3, padding=1, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(width), nn.ReLU())


class Residual(nn.Module):
    """Two convolutions and the identity, (batch, width, height, width) to the same shape."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(convolution(width, width), convolution(width, width))

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return x + residual


class ResNet9(nn.Module):
    """Images (batch, 3, 32, 32) uint8 to logits (batch, 10)."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            convolution(3, 64),
            *(convolution(64, 128), nn.MaxPool2d(2), Residual(128)),
            *(convolution(128, 256), nn.MaxPool2d(2)),
            *(convolution(256, 512), nn.MaxPool2d(2), Residual(512)),
            *(nn.MaxPool2d(4), nn.Flatten(), nn.Linear(512, NUM_CLASSES)),
        )

    def forward(self, images: Tensor) -> Tensor:
        x = images.float().to(memory_format=torch.channels_last) / 128 - 1
        logits: Tensor = self.layers(x)
        return logits


# What the programs import of this file.
__all__ = ["BEST_RESULT", "ITEMS", "compute_loss", "score", "summarize"]

SHARD_UNITS = (Residual,)


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return ResNet9().to(memory_format=torch.channels_last)


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    """Return inputs of the model's forward, for a batch of 2."""
    return (torch.zeros(2, 3, SIZE, SIZE, dtype=torch.uint8),)
