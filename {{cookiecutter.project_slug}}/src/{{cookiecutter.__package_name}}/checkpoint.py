"""Checkpoints on disk: each whole or not there, and verified before it is used.

A checkpoint is a folder `checkpoints/step_00000100/` with `model.safetensors` (the model's own
names, whatever wrapped it), `optimizer.safetensors` (`NAME/of.parameter`), `manifest.json` (the
step, the settings, size and checksum of each file) and `manifest.json.sha256`, which
`sha256sum --check` reads. Samples, schedule and random numbers are functions of the step, and
are not in it.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from .files import PART, move_into_place, write_tensors, write_whole
from .weights import WEIGHTS_FILE

CHECKPOINTS = "checkpoints"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"
CHECKSUM_FILE = "manifest.json.sha256"

StateTensors = Mapping[str, Mapping[str, Tensor]]


class DamagedCheckpoint(Exception):
    """A checkpoint is not what was written; says in which file."""


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Return where the checkpoint after optimizer step `step` lies."""
    return run_dir / CHECKPOINTS / f"step_{step:08d}"


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps that have a checkpoint, damaged or not, newest first."""
    names = [path.name for path in (run_dir / CHECKPOINTS).glob("step_*")]
    matches = [re.fullmatch(r"step_(\d{8,})", name) for name in names]
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def write_checkpoint(
    run_dir: Path, step: int, tensors: StateTensors, facts: Mapping[str, Any]
) -> None:
    """Write files of tensors and a manifest of `facts`; one rename makes the checkpoint.

    Raises:
        OSError: the disk is full, or the folder cannot be written; nothing is left of the attempt.
    """
    folder = checkpoint_folder(run_dir, step)
    part = folder.with_name(PART.format(folder.name))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, content in tensors.items():
            write_tensors(part / name, content)
        files = {name: _size_and_checksum(part / name) for name in tensors}
        manifest = json.dumps({"step": step, **facts, "files": files}, indent=2) + "\n"
        write_whole(part / MANIFEST_FILE, manifest)
        write_whole(part / CHECKSUM_FILE, _checksum_line(manifest.encode()))
        move_into_place(part, folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint, each of whose files is the one that was written.

    Raises:
        DamagedCheckpoint: a file is missing, is cut off, or has other bytes.
    """
    name = MANIFEST_FILE
    try:
        text = (folder / MANIFEST_FILE).read_bytes()
        name = CHECKSUM_FILE
        if (folder / CHECKSUM_FILE).read_bytes() != _checksum_line(text).encode():
            raise DamagedCheckpoint(f"{MANIFEST_FILE} and {CHECKSUM_FILE} do not fit")
        manifest: dict[str, Any] = json.loads(text)
        for name, expected in manifest["files"].items():
            found = _size_and_checksum(folder / name)
            if found["bytes"] != expected["bytes"]:
                raise DamagedCheckpoint(f"{name} has {found['bytes']} bytes of {expected['bytes']}")
            if found != expected:
                raise DamagedCheckpoint(f"{name} has another checksum")
    except OSError as error:
        raise DamagedCheckpoint(f"{name}: {error.strerror}") from error
    return manifest


def read_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of both files of a verified checkpoint, in memory of their own.

    The files are mapped, and a mapped file cannot be removed on Windows, nor safely on NFS.
    """
    return {
        name: {key: tensor.clone() for key, tensor in load_file(folder / name).items()}
        for name in (WEIGHTS_FILE, OPTIMIZER_FILE)
    }


def set_aside(folder: Path) -> None:
    """Rename a damaged checkpoint, so that it neither counts nor is in the way."""
    aside = folder.with_name(f"{folder.name}.damaged")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)


def prune_checkpoints(run_dir: Path, *, keep: int, best_step: int | None) -> None:
    """Remove all but the newest `keep` checkpoints and the best one; 0 keeps all."""
    for step in saved_steps(run_dir)[keep:] if keep else []:
        if step != best_step:
            folder = checkpoint_folder(run_dir, step)
            # Under another name first: a removal that is cut off must not leave half a checkpoint.
            doomed = folder.with_name(PART.format(folder.name))
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(run_dir: Path) -> None:
    """Remove what a run that was killed in the middle of a write has left."""
    parts = PART.format("*")
    for part in [*run_dir.glob(parts), *(run_dir / CHECKPOINTS).glob(parts)]:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def _size_and_checksum(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": checksum}


def _checksum_line(manifest: bytes) -> str:
    return f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_FILE}\n"
