"""The data set: replace this file, together with `model.py`, by your own.

Here: the 1,797 handwritten digits of scikit-learn (8 x 8 pixels, 10 classes), real data that
needs no download. What the rest of the project asks of this file:

- `load_split(split, augmented=...)` returns one of the three splits as a map-style data set;
- `read_inputs(paths)` turns files into model inputs, for `predict`;
- `draw_input(axes, inputs)` draws one sample, for the picture of test predictions;
- `CLASS_NAMES` names the classes.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.axes import Axes
from PIL import Image
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor
from torch.utils.data import Dataset

Split = Literal["train", "validation", "test"]

CLASS_NAMES = [str(digit) for digit in range(10)]
IMAGE_SIZE = 8
NUM_TEST, NUM_VALIDATION = 360, 180
# The split is part of the data set, not of the run: another --seed must not move the test samples.
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

        A data set that reads sample by sample needs only `__getitem__`. Draw random numbers from
        the global generators of torch, numpy or random: they are seeded for each micro-batch.
        """
        images, targets = self.images[indices], self.targets[indices]
        return (warp_randomly(images) if self.augmented else images), targets


def load_split(split: Split, *, augmented: bool) -> Digits:
    """Return the 1,257 train, 180 validation or 360 test samples, each with all classes."""
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
    """Return (batch, 1, 8, 8) images, each rotated, scaled, sheared and moved a little.

    Up to 0.15 rad, 10 %, 0.2 and 0.7 pixels.
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
    """Return image files as (batch, 1, 8, 8) float32 in [0, 1]: a bright digit on dark ground.

    Raises:
        ValueError: a file is missing or is no image.
    """
    images = []
    for path in paths:
        try:
            with Image.open(path) as image:
                small = image.convert("L").resize((IMAGE_SIZE, IMAGE_SIZE), Image.Resampling.BOX)
        # Pillow raises the last two for some damaged files.
        except (OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{path} cannot be read as an image: {error}") from error
        images.append(torch.tensor(np.asarray(small), dtype=torch.float32) / 255)
    return torch.stack(images).unsqueeze(1)


def draw_input(axes: Axes, inputs: Tensor) -> None:
    """Draw one sample, (1, 8, 8), on `axes`."""
    axes.imshow(inputs[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
