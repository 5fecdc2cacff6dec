"""The data set: replace this file, together with `model.py`, by your own.

Here: the 1,797 handwritten digits of scikit-learn (8 x 8 pixels, 10 classes), real data without a
download. What the programs need of this file:

- `prepare(config)`: downloads and such; called on each machine before anything reads.
- `describe(config)`: what the model must know of the data, such as classes or a vocabulary; as
  JSON, saved with the run, so that a trained model needs no training data.
- `load_split(split, config, info, augmented=...)`: a map-style data set, with `__len__` and
  `__getitem__` (a sample) or `__getitems__` (a batch).
- `collate`: turns a list of samples into a batch of any structure; None is PyTorch's default.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

from .config import TrainConfig

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]

IMAGE_SIZE = 8
NUM_TEST, NUM_VALIDATION = 360, 180
# Not --seed: the splits belong to the data set, not to the run.
SPLIT_SEED = 0


class Digits(Dataset[tuple[Tensor, Tensor]]):
    """Images (1, 8, 8) float32 in [0, 1] and their classes, int64 in [0, 10)."""

    def __init__(self, images: Tensor, targets: Tensor, *, augmented: bool) -> None:
        self.images = images
        self.targets = targets
        self.augmented = augmented

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a whole batch at once: (batch, 1, 8, 8) and (batch,).

        Optional: `__getitem__` is enough. Random numbers may come from the global generators of
        torch, numpy or random, which are seeded for each micro-batch.
        """
        images, targets = self.images[indices], self.targets[indices]
        return (warp_randomly(images) if self.augmented else images), targets


collate = None


def prepare(config: TrainConfig) -> None:
    """Do nothing: scikit-learn brings the data along."""


def describe(config: TrainConfig) -> DataInfo:
    """Return the names of the classes."""
    return {"classes": [str(digit) for digit in range(10)]}


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Digits:
    """Return the 1,257 train, 180 validation or 360 test samples, stratified by class."""
    pixels, classes = load_digits(return_X_y=True)
    rest, test = train_test_split(
        np.arange(len(pixels)), test_size=NUM_TEST, stratify=classes, random_state=SPLIT_SEED
    )
    train, validation = train_test_split(
        rest, test_size=NUM_VALIDATION, stratify=classes[rest], random_state=SPLIT_SEED
    )
    chosen = {"train": train, "validation": validation, "test": test}[split]
    images = torch.tensor(pixels[chosen] / 16, dtype=torch.float32)
    return Digits(
        images.view(-1, 1, IMAGE_SIZE, IMAGE_SIZE),
        torch.tensor(classes[chosen], dtype=torch.int64),
        augmented=augmented,
    )


def warp_randomly(images: Tensor) -> Tensor:
    """Return (batch, 1, 8, 8) images, each rotated, scaled, sheared and shifted at random.

    By up to 0.15 rad, 10 %, 0.2 and 0.7 pixels.
    """
    angle, width, height, shear, shift_x, shift_y = 2 * torch.rand(6, len(images)) - 1
    angle, shear, half = 0.15 * angle, 0.2 * shear, IMAGE_SIZE / 2
    x_axis = (1 + 0.1 * width) * angle.cos(), shear - (1 + 0.1 * height) * angle.sin()
    y_axis = (1 + 0.1 * width) * angle.sin(), (1 + 0.1 * height) * angle.cos()
    rows = [(*x_axis, 0.7 / half * shift_x), (*y_axis, 0.7 / half * shift_y)]
    matrices = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = torch.nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)


def read_inputs(paths: Sequence[Path]) -> Tensor:
    """Return image files as (batch, 1, 8, 8) float32 in [0, 1], 1 being the digit.

    Raises:
        ValueError: a file is missing or is no image.
    """
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                small = image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
        # Pillow raises the last two for some corrupted files.
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        images.append(torch.tensor(np.asarray(small), dtype=torch.float32) / 255)
    return torch.stack(images).unsqueeze(1)
