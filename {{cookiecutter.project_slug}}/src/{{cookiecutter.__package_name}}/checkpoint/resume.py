"""Which checkpoint a run resumes from, or whose weights are used; and the command that resumes."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..batches.seeds import RANDOM_NUMBERS
from ..distributed.devices import Devices
from ..distributed.program import launch_command, program_name
from ..settings.config_file import CONFIG_FILE
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .progress import Progress, progress_in
from .store import CorruptCheckpoint, checkpoint_folder, read_manifest, saved_steps
from .weights import WEIGHTS_FILE

# Settings that do not change what a step computes.
MAY_CHANGE = (
    *("epochs", "max_steps", "placement", "num_workers", "log_every", "eval_every"),
    *("checkpoint_every", "keep_checkpoints", "skip_nonfinite", "stop_exit_code", "tracker"),
    "patience",
)


def latest_valid_checkpoint(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the latest checkpoint that is not corrupted, and its manifest.

    Corrupted ones are reported on stderr.
    """
    for step in saved_steps(run_dir):
        folder = checkpoint_folder(run_dir, step)
        try:
            return folder, read_manifest(folder)
        except CorruptCheckpoint as error:
            print(f"checkpoint {folder} is corrupted and skipped: {error}", file=sys.stderr)
    return None


def find_start(run_dir: Path, config: RunConfig) -> Progress:
    """Return the progress of the latest valid checkpoint; that of a new run if there is none.

    Raises:
        SettingError: there is none and `config.resume` is must, or its settings differ.
    """
    latest = latest_valid_checkpoint(run_dir)
    if latest:
        folder, manifest = latest
        with changes_allowed(config):
            _refuse_other_random_numbers(folder, manifest)
        with changes_allowed(config):
            _refuse_changes(folder, manifest["config"], config)
        return progress_in(manifest)
    if (run_dir / WEIGHTS_FILE).exists():
        raise SettingError(
            f"run_dir {run_dir} holds a finished run and no valid checkpoint to resume from; try "
            "another --run-dir"
        )
    if config.resume == "must":
        raise SettingError(
            f"run_dir {run_dir} has no valid checkpoint to resume from; try --resume auto, which "
            "then starts at the first step"
        )
    print(f"{run_dir} has no valid checkpoint; starting at the first step", file=sys.stderr)
    return Progress()


def weights_folder(run_dir: Path, checkpoint: str | None) -> Path:
    """Return the folder of the weights that `checkpoint` names.

    Args:
        run_dir: Folder of the run.
        checkpoint: latest, best or step_N; None is the final weights.

    Raises:
        SettingError: there is no such checkpoint, or it is corrupted.
    """
    if checkpoint is None:
        if not (run_dir / WEIGHTS_FILE).exists():
            advice = "; try --checkpoint latest" if saved_steps(run_dir) else ""
            raise SettingError(f"run_dir {run_dir} has no final weights{advice}")
        return run_dir
    latest = latest_valid_checkpoint(run_dir)
    if latest is None:
        raise SettingError(f"run_dir {run_dir} has no valid checkpoint; try without --checkpoint")
    folder, manifest = latest
    if checkpoint == "best":
        if manifest["best_step"] is None:
            raise SettingError(
                f"run_dir {run_dir} has no validation yet whose BEST_RESULT is a number; try "
                "--checkpoint latest"
            )
        folder = checkpoint_folder(run_dir, manifest["best_step"])
    elif checkpoint != "latest":
        folder = folder.parent / Path(checkpoint).name
    names = [checkpoint_folder(run_dir, step).name for step in saved_steps(run_dir)]
    advice = f"try --checkpoint latest or {', '.join(names)}"
    if not folder.is_dir():
        raise SettingError(f"there is no checkpoint {folder}; {advice}")
    try:
        read_manifest(folder)
    except CorruptCheckpoint as error:
        raise SettingError(f"checkpoint {folder} is corrupted: {error}; {advice}") from error
    return folder


@contextmanager
def changes_allowed(config: RunConfig, *, prints: bool = True) -> Iterator[None]:
    """Print a change that is refused inside, instead of raising, if `config` allows changes."""
    try:
        yield
    except SettingError as error:
        if not config.allow_changes:
            raise
        if prints:
            print(f"allowed: {str(error).rpartition('; ')[0]}", file=sys.stderr)


def _refuse_other_random_numbers(folder: Path, manifest: dict[str, Any]) -> None:
    if manifest.get("random_numbers") != RANDOM_NUMBERS:
        raise SettingError(
            f"{folder} is of an earlier version of this package, which derived sample order and "
            "random numbers in another way; try --allow-changes to resume with those of now"
        )


def _refuse_changes(folder: Path, saved: dict[str, Any], config: RunConfig) -> None:
    """Raise if a setting that changes what a step computes differs from the checkpoint's."""
    # A setting that was added after the checkpoint was written counts as its default.
    saved, present = {**type(config)().saved(), **saved}, config.saved()
    changes = [
        f"{name} (was {saved.get(name, 'not set')}, is {present.get(name, 'not set')})"
        for name in {**saved, **present}
        if name not in MAY_CHANGE and saved.get(name) != present.get(name)
    ]
    if changes:
        config_file = _quoted(str(folder.parents[1] / CONFIG_FILE))
        raise SettingError(
            f"settings differ from those of {folder}: {', '.join(changes)}; try "
            f"--config {config_file}, or --allow-changes to resume anyway"
        )


def resume_command(run_dir: Path, devices: Devices) -> str:
    """Return, as one line, the latest checkpoint of a stopped run and the command to resume it."""
    steps = saved_steps(run_dir)
    latest = checkpoint_folder(run_dir, steps[0]) if steps else None
    launcher = launch_command(devices.world_size)
    return (
        f"{f'The latest checkpoint is {latest}' if latest else 'There is no checkpoint yet'}; "
        f"resume with: {launcher} -m {program_name()} --config "
        f"{_quoted(str(run_dir / CONFIG_FILE), '--run-dir', str(run_dir))} "
        f"--resume {'must' if latest else 'auto'}"
    )


def _quoted(*words: str) -> str:
    return subprocess.list2cmdline(words) if os.name == "nt" else shlex.join(words)
