"""Points around ten centers, the classes: generated in a millisecond, and not all separable."""

import os
import time
from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor
from torch.utils.data import Dataset

from .config import TrainConfig

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]

NUM_FEATURES, NUM_CLASSES = 16, 10
# A variable of the environment: seconds to read a micro-batch, for runs to be stopped in time.
SECONDS_PER_BATCH = "TINY_SECONDS_PER_BATCH"
# 1,257 samples are 19 steps of 64, and 41 are left out.
SPLITS: dict[Split, slice] = {
    "train": slice(0, 1257),
    "validation": slice(1257, 1437),
    "test": slice(1437, 1797),
}


class Points(Dataset[tuple[Tensor, Tensor]]):
    """Points (16,) float32 and their classes, int64 in [0, 10)."""

    def __init__(self, inputs: Tensor, targets: Tensor, *, augmented: bool) -> None:
        self.inputs = inputs
        self.targets = targets
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.inputs)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        inputs, targets = self.__getitems__([index])
        return inputs[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        if self.augmented:
            time.sleep(float(os.environ.get(SECONDS_PER_BATCH, 0)))
        inputs, targets = self.inputs[indices], self.targets[indices]
        return (inputs + 0.1 * torch.randn_like(inputs) if self.augmented else inputs), targets


collate = None


def prepare(config: TrainConfig) -> None:
    """Do nothing."""


def describe(config: TrainConfig) -> DataInfo:
    return {"classes": [f"class {index}" for index in range(NUM_CLASSES)]}


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Points:
    generator = torch.Generator().manual_seed(0)
    centers = torch.randn(NUM_CLASSES, NUM_FEATURES, generator=generator)
    targets = torch.randint(NUM_CLASSES, (SPLITS["test"].stop,), generator=generator)
    noise = torch.randn(len(targets), NUM_FEATURES, generator=generator)
    inputs, chosen = centers[targets] + noise, SPLITS[split]
    return Points(inputs[chosen], targets[chosen], augmented=augmented)


def load(split: Split, *, augmented: bool = False) -> Points:
    """Return a split with the default settings, for tests."""
    config = TrainConfig()
    return load_split(split, config, describe(config), augmented=augmented)
