"""The digits as 64 numbers, without augmentation: a step is all overhead."""

from collections.abc import Sequence

import torch
from sklearn.datasets import load_digits
from torch import Tensor
from torch.utils.data import Dataset

from .classification import DataInfo, Split, collate, describe, prepare
from .config import TrainConfig

# What the programs import of this file.
__all__ = ["DataInfo", "collate", "describe", "prepare"]

SPLITS = {"train": (0, 1257), "validation": (1257, 1437), "test": (1437, 1797)}


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Rows of 64 float32 in [0, 1], and their classes, int64."""

    def __init__(self, first: int, last: int) -> None:
        digits = load_digits()
        self.rows = torch.tensor(digits.data[first:last] / 16, dtype=torch.float32)
        self.targets = torch.tensor(digits.target[first:last], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        return self.rows[index], self.targets[index]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch."""
        chosen = torch.tensor(indices)
        return self.rows.index_select(0, chosen), self.targets.index_select(0, chosen)


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Digits:
    """Return the samples of a split."""
    return Digits(*SPLITS[split])
