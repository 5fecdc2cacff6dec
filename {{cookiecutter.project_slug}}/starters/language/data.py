"""The data set: replace this file, together with `model.py`, by your own.

Here: English text as bytes, in blocks of fixed length: by default the reference topics that come
with Python (`pydoc_data`, 466 kB), or the files of `--data-file`, memory-mapped, so that they may
be larger than memory. What the programs need of this file:

- `prepare(config)`: downloads and such; called on each machine before anything reads.
- `describe(config)`: what the model must know of the data, as JSON; it is saved with the run.
- `load_split(split, config, info, augmented=...)`: a map-style data set.
- `collate`: turns a list of samples into a batch; None is PyTorch's default.
"""

import pydoc_data.topics
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from .config import TrainConfig
from .settings.errors import SettingError

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]
Bytes = NDArray[np.uint8]

VOCABULARY_SIZE = 256
# Where each split starts and ends in each file, in tenths of its blocks.
SPLITS = {"train": (0, 8), "validation": (8, 9), "test": (9, 10)}
NUM_TENTHS = 10
PART = 2**20


class Blocks(Dataset[Tensor]):
    """Blocks of consecutive bytes: (block_size + 1,) int64 in [0, 256).

    The last byte of a block is the first of the next: it is the target of the byte before.
    """

    def __init__(self, texts: Sequence[Bytes], block_size: int) -> None:
        self.texts = texts
        self.block_size = block_size
        # Where the blocks of each text end, counted over all texts.
        self.ends = np.cumsum([num_blocks(len(text), block_size) for text in texts])

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, index: int) -> Tensor:
        if not 0 <= index < len(self):
            raise IndexError(f"block {index} of {len(self)}")
        which = int(np.searchsorted(self.ends, index, side="right"))
        start = (index - int(self.ends[which - 1] if which else 0)) * self.block_size
        block = self.texts[which][start : start + self.block_size + 1]
        return torch.from_numpy(block.astype(np.int64))


collate = None


def prepare(config: TrainConfig) -> None:
    """Do nothing: the files are read as they are."""


def describe(config: TrainConfig) -> DataInfo:
    """Return what identifies the text, by which a resumed run knows it again."""
    texts = read_texts(config)
    # Its beginnings and ends: a whole file may be larger than memory.
    parts = b"".join(bytes(text[:PART]) + bytes(text[-PART:]) for text in texts)
    digest = sha256(parts + str([len(text) for text in texts]).encode()).hexdigest()[:16]
    return {"vocabulary_size": VOCABULARY_SIZE, "bytes": sum(map(len, texts)), "text": digest}


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Blocks:
    """Return the first 80 % of each file to train, the next 10 % to validate, the rest to test."""
    parts = []
    for text in read_texts(config):
        start, end = (
            tenths * num_blocks(len(text), config.block_size) // NUM_TENTHS * config.block_size
            for tenths in SPLITS[split]
        )
        parts.append(text[start : end + 1])
    return Blocks(parts, config.block_size)


def num_blocks(num_bytes: int, block_size: int) -> int:
    """Return the number of whole blocks, each with the byte that follows it."""
    return (num_bytes - 1) // block_size


def read_texts(config: TrainConfig) -> Sequence[Bytes]:
    """Return the built-in text, or each file, memory-mapped; refuse one that is too short."""
    topics = pydoc_data.topics.topics
    built_in = "\n\n".join(topics[name] for name in sorted(topics)).encode()
    texts: dict[str, Bytes] = {}
    for file in config.data_file:
        try:
            has_bytes = file.stat().st_size > 0  # An empty file cannot be mapped.
            texts[f"data_file {file}"] = (
                np.memmap(file, dtype=np.uint8, mode="r") if has_bytes else np.zeros(0, np.uint8)
            )
        except OSError as error:
            raise SettingError(f"data_file {file} cannot be read: {error.strerror}") from error
    texts = texts or {"the built-in text": np.frombuffer(built_in, dtype=np.uint8)}
    for name, text in texts.items():
        if num_blocks(len(text), config.block_size) < NUM_TENTHS:
            raise SettingError(
                f"{name} has {len(text)} bytes, and three splits need at least "
                f"{NUM_TENTHS * config.block_size + 1}; try a smaller --block-size"
            )
    return list(texts.values())


def to_text(tokens: Sequence[int]) -> str:
    """Return bytes as text, with a replacement sign for what is not UTF-8."""
    return bytes(tokens).decode(errors="replace")
