"""Files that are whole or not there, whenever the machine stops."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

PART = ".{}.part"
"""Name of what is being written, until it takes its own."""


def write_whole(file: Path, text: str) -> None:
    """Write `text` under another name, sync it and move it into place."""
    part = file.with_name(PART.format(file.name))
    part.write_text(text, encoding="utf-8", newline="\n")
    move_into_place(part, file)


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON that a person can read."""
    write_whole(file, json.dumps(values, indent=2) + "\n")


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
