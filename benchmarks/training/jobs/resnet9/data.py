"""50,000 generated colour images of 32 x 32 pixels in ten classes, shifted and mirrored."""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.lib.stride_tricks import sliding_window_view
from torch import Tensor
from torch.utils.data import Dataset

from .classification import DataInfo, Split, collate, describe, prepare
from .config import TrainConfig

# What the programs import of this file.
__all__ = ["DataInfo", "collate", "describe", "prepare"]

SIZES = {"train": 50_000, "validation": 2_000, "test": 2_000}
SIZE, PADDING, NUM_CLASSES = 32, 4, 10


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images (3, 32, 32) uint8 and their classes, int64."""

    def __init__(self, split: Split, *, augmented: bool) -> None:
        draw = np.random.default_rng(list(SIZES).index(split))
        self.targets = torch.tensor(draw.integers(NUM_CLASSES, size=SIZES[split]))
        means = np.random.default_rng(0).integers(64, 192, size=(NUM_CLASSES, 3, 1, 1))
        noise = draw.integers(-64, 64, size=(SIZES[split], 3, SIZE, SIZE), dtype=np.int16)
        pixels = (means[self.targets.numpy()] + noise).astype(np.uint8)
        margin = ((0, 0), (0, 0), (PADDING, PADDING), (PADDING, PADDING))
        windows = sliding_window_view(np.pad(pixels, margin), (SIZE, SIZE), (2, 3))
        self.windows, self.augmented = windows, augmented
        """(images, 3, 9, 9, 32, 32): each shift of each image, as a view."""

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch."""
        rows = columns = np.full(len(indices), PADDING)
        if self.augmented:
            rows, columns = torch.randint(2 * PADDING + 1, (2, len(indices))).numpy()
        images = torch.from_numpy(self.windows[np.asarray(indices), :, rows, columns])
        if self.augmented:
            mirrored = torch.rand(len(indices)) < 0.5
            images[mirrored] = images[mirrored].flip(-1)
        return images, self.targets[indices]


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Images:
    """Return the images of a split."""
    return Images(split, augmented=augmented)
