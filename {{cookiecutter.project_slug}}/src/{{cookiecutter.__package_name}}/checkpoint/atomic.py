"""Atomic writes: a file is complete or absent, whenever the machine stops."""

import errno
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor

PART = ".{}.part"
"""Name of a file that is being written, until it is renamed."""


def write_atomically(file: Path, text: str) -> None:
    """Write `text` under another name, sync it and rename it.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    part = file.with_name(PART.format(file.name))
    part.write_text(text, encoding="utf-8", newline="\n")
    rename_synced(part, file)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as indented JSON."""
    write_atomically(file, as_json(values, indent=2) + "\n")


def as_json(values: Mapping[str, Any], indent: int | None = None) -> str:
    """Return `values` as JSON; NaN and inf, which JSON does not have, become null."""
    finite = {
        name: None if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in values.items()
    }
    return json.dumps(finite, indent=indent, allow_nan=False)


def write_tensors(file: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors and sync the file.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    file.touch()
    mode = file.stat().st_mode
    try:
        save_file(dict(tensors), file)
    except SafetensorError as error:
        # safetensors raises an error of its own when the disk is full.
        raise OSError(str(error)) from error
    with unsupported_is_said("set the mode of files"):
        file.chmod(mode)  # safetensors lets only the owner read the file.
    sync(file)


def rename_synced(part: Path, path: Path) -> None:
    """Rename a file, or a folder whose files are synced, so that a crash cannot undo it."""
    sync(part)
    part.replace(path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the content of a file, or the list of names in a folder, is on the disk."""
    if path.is_dir() and os.name == "nt":
        return  # Windows cannot open folders.
    what = "sync folders" if path.is_dir() else "sync files"
    with unsupported_is_said(f"{what}, so a crash of the machine may undo the last writes"):
        descriptor = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@contextmanager
def unsupported_is_said(what: str) -> Iterator[None]:
    """Say once on stderr, instead of failing, that a file system cannot do what is not needed.

    Network and object-store mounts often cannot: CIFS, NFS, FUSE.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in NOT_OFFERED:
            raise
        if what not in _said:
            _said.add(what)
            print(f"this file system cannot {what} ({error.strerror})", file=sys.stderr)


NOT_OFFERED = {errno.EINVAL, errno.EPERM, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP}
_said: set[str] = set()
