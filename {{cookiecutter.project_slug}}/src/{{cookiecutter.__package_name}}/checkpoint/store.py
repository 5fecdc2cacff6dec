"""The files of a checkpoint: written atomically, and verified before they are used.

A checkpoint is a folder `checkpoints/step_00000100/` with `model.safetensors` (under the names of
the unwrapped model), `optimizer.safetensors` (`NAME/of.parameter`, `param_groups/0.NAME`),
`average.safetensors` (with `ema_decay`), `manifest.json` (step, settings, size and checksum of each
file) and `manifest.json.sha256`: the checksums of all of them, for `sha256sum --check`.
Sample order, learning rate and random numbers are functions of the step, so they are not saved.
"""

import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from .atomic import PART, rename_synced, write_atomically, write_tensors

CHECKPOINTS, TRIAL = "checkpoints", ".trial"
OPTIMIZER_FILE = "optimizer.safetensors"
MANIFEST_FILE = "manifest.json"
CHECKSUM_FILE = "manifest.json.sha256"

StateTensors = Mapping[str, Mapping[str, Tensor]]


class CorruptCheckpoint(Exception):
    """A checkpoint is corrupted; the message names the file."""


def checkpoint_folder(run_dir: Path, step: int) -> Path:
    """Return the folder of the checkpoint after optimizer step `step`."""
    return run_dir / CHECKPOINTS / f"step_{step:08d}"


def saved_steps(run_dir: Path) -> list[int]:
    """Return the steps that have a checkpoint, latest first, without verifying them."""
    names = [path.name for path in (run_dir / CHECKPOINTS).glob("step_*")]
    matches = [re.fullmatch(r"step_(\d{8,})", name) for name in names]
    return sorted((int(match[1]) for match in matches if match), reverse=True)


def write_checkpoint(
    run_dir: Path, step: int, tensors: StateTensors, metadata: Mapping[str, Any]
) -> None:
    """Write files of tensors and a manifest with `metadata`; the checkpoint appears by one rename.

    Raises:
        OSError: the disk is full, or the folder cannot be written; partial files are removed.
    """
    folder = checkpoint_folder(run_dir, step)
    part = folder.with_name(PART.format(folder.name))
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for name, content in tensors.items():
            write_tensors(part / name, content)
        files = {name: _size_and_checksum(part / name) for name in tensors}
        manifest = json.dumps({"step": step, **metadata, "files": files}, indent=2) + "\n"
        write_atomically(part / MANIFEST_FILE, manifest)
        write_atomically(part / CHECKSUM_FILE, _checksums(manifest.encode(), files))
        rename_synced(part, folder)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise


def try_checkpoint(run_dir: Path) -> None:
    """Write and remove a small checkpoint: what is needed fails before training, not after it.

    Raises:
        OSError: as `write_checkpoint`.
    """
    # Not among the checkpoints: nobody may take it for one.
    folder = run_dir / TRIAL
    shutil.rmtree(folder, ignore_errors=True)
    write_checkpoint(folder, 0, {OPTIMIZER_FILE: {"tried": torch.zeros(1)}}, {})
    shutil.rmtree(folder)


def read_manifest(folder: Path) -> dict[str, Any]:
    """Return the manifest of a checkpoint after verifying the checksum of each file.

    Raises:
        CorruptCheckpoint: a file is missing, truncated or corrupted.
    """
    name = MANIFEST_FILE
    try:
        text = (folder / MANIFEST_FILE).read_bytes()
        name = CHECKSUM_FILE
        checksums = (folder / CHECKSUM_FILE).read_text(encoding="utf-8", errors="replace")
        if not checksums.startswith(_checksums(text, {})):
            raise CorruptCheckpoint(f"{MANIFEST_FILE} does not match {CHECKSUM_FILE}")
        manifest: dict[str, Any] = json.loads(text)
        # Earlier versions wrote the first line only.
        if checksums not in (_checksums(text, {}), _checksums(text, manifest["files"])):
            raise CorruptCheckpoint(f"{CHECKSUM_FILE} does not match {MANIFEST_FILE}")
        for name, expected in manifest["files"].items():
            found = _size_and_checksum(folder / name)
            if found["bytes"] != expected["bytes"]:
                raise CorruptCheckpoint(f"{name} has {found['bytes']} of {expected['bytes']} bytes")
            if found != expected:
                raise CorruptCheckpoint(f"{name} has the wrong checksum")
    except OSError as error:
        raise CorruptCheckpoint(f"{name}: {error.strerror}") from error
    return manifest


def read_tensors(folder: Path) -> dict[str, dict[str, Tensor]]:
    """Return the tensors of each file of a verified checkpoint, copied to memory.

    `load_file` maps the file; a mapped file cannot be removed on Windows, nor safely on NFS.
    """
    return {
        file.name: {key: tensor.clone() for key, tensor in load_file(file).items()}
        for file in folder.glob("*.safetensors")
    }


def rename_corrupted(folder: Path) -> None:
    """Rename a corrupted checkpoint to `NAME.corrupted`, so that its step can be saved again."""
    corrupted = folder.with_name(f"{folder.name}.corrupted")
    shutil.rmtree(corrupted, ignore_errors=True)
    folder.rename(corrupted)


def prune_checkpoints(run_dir: Path, *, keep: int, best_step: int | None) -> None:
    """Remove all but the latest `keep` checkpoints and the best one; 0 keeps all."""
    for step in saved_steps(run_dir)[keep:] if keep else []:
        if step != best_step:
            folder = checkpoint_folder(run_dir, step)
            # Renamed first: an interrupted removal must not leave part of a checkpoint.
            doomed = folder.with_name(PART.format(folder.name))
            shutil.rmtree(doomed, ignore_errors=True)
            folder.rename(doomed)
            shutil.rmtree(doomed, ignore_errors=True)


def remove_unfinished(run_dir: Path) -> None:
    """Remove the partial files of a run that was killed while it wrote."""
    pattern = PART.format("*")
    for part in [*run_dir.glob(pattern), *(run_dir / CHECKPOINTS).glob(pattern)]:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()


def _size_and_checksum(file: Path) -> dict[str, Any]:
    with file.open("rb") as content:
        checksum = hashlib.file_digest(content, "sha256").hexdigest()
    return {"bytes": file.stat().st_size, "sha256": checksum}


def _checksums(manifest: bytes, files: Mapping[str, Mapping[str, Any]]) -> str:
    """Return checksums of the manifest and the files, as `sha256sum` prints them."""
    lines = [f"{hashlib.sha256(manifest).hexdigest()}  {MANIFEST_FILE}\n"]
    return "".join([*lines, *(f"{file['sha256']}  {name}\n" for name, file in files.items())])
