"""Files that are whole or not there, whenever the machine stops."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

PART = ".{}.part"
"""Name of what is being written, until it takes its own."""


def write_whole(file: Path, text: str) -> None:
    """Write `text` under another name, sync it and move it into place."""
    part = file.with_name(PART.format(file.name))
    part.write_text(text, encoding="utf-8", newline="\n")
    move_into_place(part, file)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON that a person can read."""
    write_whole(file, as_json(values, indent=2) + "\n")


def as_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Return `values` as JSON, which has no NaN and no infinity: these become null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, indent=indent, allow_nan=False)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors, synced, for whoever may read the folder's other files.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:
        # safetensors has an error class of its own for a full disk.
        raise OSError(str(error)) from error
    file.chmod(mode)  # safetensors leaves a file that only its owner reads.
    sync(file)


def move_into_place(part: Path, path: Path) -> None:
    """Sync a file or a folder whose files are synced, and give it its name for good."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the bytes of a file, or the names in a folder, are on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows opens no folders.
    descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
