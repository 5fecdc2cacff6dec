"""The data set: replace this file, together with `model.py`, by your own.

Here: the 1,797 handwritten digits of scikit-learn (8 x 8 pixels, 10 classes), real data without a
download; or with `--data-dir` a folder that has a subfolder of images for each class. What the
programs need of this file:

- `prepare(config)`: downloads and such; called on each machine before anything reads.
- `describe(config)`: what the model must know of the data, as JSON; it is saved with the run.
- `load_split(split, config, info, augmented=...)`: a map-style data set.
- `collate`: turns a list of samples into a batch; None is PyTorch's default.
"""

import inspect
import math
import os
import tempfile
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torch import Tensor
from torch.utils.data import Dataset

from .config import TrainConfig
from .settings.errors import SettingError

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]
Array = NDArray[Any]

FOLDER_SIZE = 32
SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
TEST_PART, VALIDATION_PART = 0.2, 0.1
FEWEST = 10
SPLIT_NAMES = {"train", "training", "val", "valid", "validation", "test"}
SPLIT_SEED = 0  # Not --seed: the splits belong to the data set, not to the run.


class Images(Dataset[tuple[Tensor, Tensor]]):
    """Images (channels, size, size) float32 in [0, 1] and their classes, int64.

    Args:
        pixels: (all images, channels, size, size), uint8 or in [0, 1]; may be memory-mapped.
        targets: (all images,), their classes.
        chosen: (samples,), the images of this data set.
        augmented: Whether to warp each image at random.
    """

    def __init__(self, pixels: Array, targets: Array, chosen: Array, *, augmented: bool) -> None:
        self.pixels, self.chosen, self.augmented = pixels, chosen, augmented
        self.targets = torch.tensor(targets[chosen], dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        images, targets = self.__getitems__([index])
        return images[0], targets[0]

    def __getitems__(self, indices: Sequence[int]) -> tuple[Tensor, Tensor]:
        """Return a batch, (batch, channels, size, size) and (batch,); `__getitem__` is enough.

        The global generators of torch, numpy and random are seeded for each micro-batch.
        """
        images = torch.tensor(self.pixels[self.chosen[indices]], dtype=torch.float32)
        if self.pixels.dtype == np.uint8:
            images /= 255
        return (warp_randomly(images) if self.augmented else images), self.targets[indices]


collate = None


def prepare(config: TrainConfig) -> None:
    """Decode and resize the images of a folder once, into one file; name those that are corrupt."""
    if config.data_dir is None or pixels_file(config).exists():
        return
    files, size = find_images(config.data_dir), config.image_size or FOLDER_SIZE
    with ThreadPoolExecutor() as threads:
        images = [threads.submit(read_image, file, size) for file in files]
    corrupt = [str(image.exception()) for image in images if image.exception()]
    if corrupt:
        raise SettingError(
            f"{len(corrupt)} of {len(files)} images in data_dir are corrupt; replace or remove "
            f"them: {'; '.join(corrupt[:5])}"
        )
    pixels = np.stack([image.result() for image in images])
    if (pixels == pixels[:, :1]).all():  # Grey.
        pixels = pixels[:, :1]
    part = pixels_file(config).with_suffix(f".{os.getpid()}")
    try:
        with part.open("wb") as file:
            np.save(file, pixels)
        part.replace(pixels_file(config))
    except OSError as error:
        raise SettingError(f"{part}: {error.strerror}; set TMPDIR to a folder with room") from error


def describe(config: TrainConfig) -> DataInfo:
    """Return the names of the classes, and the shape of an image."""
    pixels, names = load_images(config)
    _, channels, size, _ = pixels.shape
    files = find_images(config.data_dir) if config.data_dir else []
    # By which a resumed run and an evaluation know the images again.
    sizes = [(str(file.relative_to(config.data_dir or "")), file.stat().st_size) for file in files]
    info = {"classes": sorted(set(names)), "channels": channels, "image_size": size}
    return info | {"images": sha256(str(sizes).encode()).hexdigest()[:16] if sizes else "digits"}


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Images:
    """Return 70 % of the samples to train, 10 % to validate or 20 % to test, stratified by class.

    Raises:
        SettingError: the folder has other classes than `info`.
    """
    from sklearn.model_selection import train_test_split  # Takes a second; `predict` needs none.

    pixels, names = load_images(config)
    if sorted(set(names)) != info["classes"]:
        raise SettingError(f"data_dir {config.data_dir} has other classes than the run's data.json")
    targets = np.array([info["classes"].index(name) for name in names])
    parts, rest = {}, np.arange(len(names))
    for name, part in (("test", TEST_PART), ("validation", VALIDATION_PART)):
        chosen = {"test_size": math.ceil(part * len(names)), "random_state": SPLIT_SEED}
        rest, parts[name] = train_test_split(rest, stratify=targets[rest], **chosen)
    return Images(pixels, targets, parts.get(split, rest), augmented=augmented)


def load_images(config: TrainConfig) -> tuple[Array, list[str]]:
    """Return all images, (images, channels, size, size), and the name of the class of each."""
    if config.data_dir is None:
        from sklearn import datasets

        if config.image_size is not None:
            raise SettingError("image_size is for the images of a folder; add --data-dir FOLDER")
        digits = datasets.load_digits()
        return digits.images[:, np.newaxis] / 16, list(map(str, digits.target))
    files = find_images(config.data_dir)
    names = [file.relative_to(config.data_dir).parts[0] for file in files]
    return np.load(pixels_file(config), mmap_mode="r"), names


@cache
def find_images(folder: Path) -> list[Path]:
    """Return the image files in the subfolders of a folder, sorted; hidden ones are left out."""
    files = sorted(
        path
        for path in folder.glob("*/**/*")
        if path.suffix.lower() in SUFFIXES and path.is_file()
        if not any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
    )
    counts = Counter(file.relative_to(folder).parts[0] for file in files)
    if len(counts) < 2 or set(counts) <= SPLIT_NAMES:
        found = f"has {', '.join(counts) or 'no images'}" if folder.is_dir() else "is no folder"
        raise SettingError(
            f"data_dir {folder} {found}; give a folder that has a subfolder for each of two or "
            f"more classes, with files such as {', '.join(SUFFIXES[:3])}; splits are drawn from it"
        )
    rarest, fewest = counts.most_common()[-1]
    if fewest < FEWEST:
        raise SettingError(f"class {rarest} has too few images, {fewest}; at least {FEWEST}")
    return files


def pixels_file(config: TrainConfig) -> Path:
    """Return where this machine keeps the pixels; another file if images or code change."""
    assert config.data_dir is not None
    files = [(file, file.stat()) for file in find_images(config.data_dir)]
    # A copy may keep the time of a change, but not the other one.
    known = [(str(file), s.st_size, s.st_mtime_ns, s.st_ctime_ns) for file, s in files]
    code = inspect.getsource(read_image)
    digest = sha256(f"{config.image_size} {known} {code}".encode())
    return Path(tempfile.gettempdir()) / f"pixels-{digest.hexdigest()[:16]}.npy"


def read_image(file: Path, size: int) -> Array:
    """Return an image as (3, size, size) uint8, upright, cropped to a square and resized.

    Raises:
        SettingError: the file is missing or is no image.
    """
    try:
        with Image.open(file) as opened:
            image = ImageOps.exif_transpose(opened)
            if image.mode == "F" or (image.mode == "I" and opened.format not in ("PNG", "PPM")):
                raise OSError("it has 32 bits per pixel; save it with 8 or 16")
            if image.mode.startswith("I"):  # 16 bits, which Pillow would clip to 8.
                image = Image.fromarray((np.asarray(image) / 257).clip(0, 255).astype(np.uint8))
            if image.has_transparency_data:
                white = Image.new("RGBA", image.size, "white")
                image = Image.alpha_composite(white, image.convert("RGBA"))
            square = ImageOps.fit(image.convert("RGB"), (size, size), Image.Resampling.BOX)
    # Pillow raises the last two for some corrupted files.
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SettingError(f"{file} cannot be read as an image: {reason}") from error
    return np.asarray(square).transpose(2, 0, 1)


def read_inputs(files: Sequence[Path], info: DataInfo) -> Tensor:
    """Return image files as (batch, channels, size, size) float32 in [0, 1]."""
    images = np.stack([read_image(file, info["image_size"]) for file in files])
    if info["channels"] == 1:
        images = np.rint(np.einsum("nchw,c->nhw", images, (0.299, 0.587, 0.114)))[:, np.newaxis]
    return torch.tensor(images, dtype=torch.float32) / 255


def warp_randomly(images: Tensor) -> Tensor:
    """Return images rotated (0.15 rad), scaled (10 %), sheared (0.2), shifted (9 %) at random."""
    angle, width, height, shear, shift_x, shift_y = 2 * torch.rand(6, len(images)) - 1
    angle, shear = 0.15 * angle, 0.2 * shear
    x_axis = (1 + 0.1 * width) * angle.cos(), shear - (1 + 0.1 * height) * angle.sin()
    y_axis = (1 + 0.1 * width) * angle.sin(), (1 + 0.1 * height) * angle.cos()
    rows = [(*x_axis, 0.175 * shift_x), (*y_axis, 0.175 * shift_y)]
    matrices = torch.stack([torch.stack(row, dim=1) for row in rows], dim=1)
    grid = torch.nn.functional.affine_grid(matrices, list(images.shape), align_corners=False)
    return torch.nn.functional.grid_sample(images, grid, align_corners=False)
