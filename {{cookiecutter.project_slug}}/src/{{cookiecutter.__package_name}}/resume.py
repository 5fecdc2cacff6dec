"""Which checkpoint is taken: to go on from, or to use its weights."""

import os
import shlex
import subprocess
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from .checkpoint import DamagedCheckpoint, checkpoint_folder, read_manifest, saved_steps
from .config import CONFIG_FILE, TrainConfig
from .devices import Devices, accelerate_says, program_name
from .errors import SettingError
from .weights import WEIGHTS_FILE

# Settings that leave the steps done as they are: how long, where and beside what a run goes on.
MAY_CHANGE = (
    *("epochs", "max_steps", "placement", "num_workers", "log_every", "eval_every"),
    *("checkpoint_every", "keep_checkpoints", "skip_nonfinite", "tracker"),
)


@dataclass(frozen=True, kw_only=True)
class Progress:
    """How far a run has come: what a checkpoint's manifest says beside settings and files."""

    step: int = 0
    """Optimizer steps that are done."""

    train_seconds: float = 0.0
    skipped_steps: int = 0
    """Steps that were left out, because a loss or a gradient was not finite."""

    best_step: int | None = None
    best_loss: float | None = None
    """The lowest validation loss so far, and the step after which it was measured."""

    scaler: dict[str, Any] | None = None
    """Numbers of the fp16 loss scaler."""

    num_train_samples: int = 0
    strategy: str = ""
    world_size: int = 1
    exact: bool = False
    """What computed the steps, since the last resume."""


def newest_whole(run_dir: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest whole checkpoint and its manifest; a damaged one is named on stderr."""
    for step in saved_steps(run_dir):
        folder = checkpoint_folder(run_dir, step)
        try:
            return folder, read_manifest(folder)
        except DamagedCheckpoint as error:
            print(f"checkpoint {folder} is damaged and skipped: {error}", file=sys.stderr)
    return None


def choose_checkpoint(run_dir: Path, config: TrainConfig) -> Progress | None:
    """Return the progress of the newest whole checkpoint, None where there is none.

    Raises:
        SettingError: there is none and `config.resume` is must, or it has other settings.
    """
    newest = newest_whole(run_dir)
    if newest:
        folder, manifest = newest
        if not config.allow_changes:
            _refuse_changes(folder, manifest["config"], config)
        names = [field.name for field in fields(Progress)]
        return Progress(**{name: manifest[name] for name in names if name in manifest})
    if (run_dir / WEIGHTS_FILE).exists():
        raise SettingError(
            f"run_dir {run_dir} holds a finished run and no whole checkpoint to go on from; try "
            "another --run-dir"
        )
    if config.resume == "must":
        raise SettingError(
            f"run_dir {run_dir} has no whole checkpoint to resume from; try --resume auto, which "
            "then starts at the first step"
        )
    print(f"{run_dir} has no whole checkpoint: the run starts at its first step", file=sys.stderr)
    return None


def weights_folder(run_dir: Path, checkpoint: str | None) -> Path:
    """Return where the weights lie that `checkpoint` names: newest, best, step_N; None: the final.

    Raises:
        SettingError: there is no such checkpoint, or it is damaged.
    """
    if checkpoint is None:
        if not (run_dir / WEIGHTS_FILE).exists():
            advice = "; try --checkpoint newest" if saved_steps(run_dir) else ""
            raise SettingError(f"run_dir {run_dir} holds no weights of a finished run{advice}")
        return run_dir
    newest = newest_whole(run_dir)
    if newest is None:
        raise SettingError(f"run_dir {run_dir} has no whole checkpoint; try without --checkpoint")
    folder, manifest = newest
    if checkpoint == "best":
        if manifest["best_step"] is None:
            raise SettingError(f"run_dir {run_dir} has no validation yet; try --checkpoint newest")
        folder = checkpoint_folder(run_dir, manifest["best_step"])
    elif checkpoint != "newest":
        folder = folder.parent / Path(checkpoint).name
    names = [checkpoint_folder(run_dir, step).name for step in saved_steps(run_dir)]
    advice = f"try --checkpoint newest or {', '.join(names)}"
    if not folder.is_dir():
        raise SettingError(f"there is no checkpoint {folder}; {advice}")
    try:
        read_manifest(folder)
    except DamagedCheckpoint as error:
        raise SettingError(f"checkpoint {folder} cannot be used: {error}; {advice}") from error
    return folder


def _refuse_changes(folder: Path, saved: dict[str, Any], config: TrainConfig) -> None:
    """Raise where a setting that decides what a step computes is not that of the checkpoint."""
    present = config.saved()
    changes = [
        f"{name} (was {saved.get(name, 'not there')}, is {present.get(name, 'not there')})"
        for name in {**saved, **present}
        if name not in MAY_CHANGE and saved.get(name) != present.get(name)
    ]
    if changes:
        raise SettingError(
            f"settings differ from those of {folder}: {', '.join(changes)}; try "
            f"--config {folder.parents[1] / CONFIG_FILE}, or --allow-changes to resume all the "
            "same"
        )


def how_to_go_on(run_dir: Path, devices: Devices) -> str:
    """Return which checkpoint a stopped run has, and the command that resumes it, as one line."""
    steps = saved_steps(run_dir)
    newest = checkpoint_folder(run_dir, steps[0]) if steps else None
    launcher = "python"
    if devices.world_size > 1:
        launcher = f"torchrun --nproc-per-node {os.environ.get('LOCAL_WORLD_SIZE', 'gpu')}"
    if accelerate_says("USE_FSDP"):
        # Without what Accelerate was told there, placement auto would be DDP.
        launcher = "accelerate launch --config_file launch/fsdp2.yaml"
    quoted = subprocess.list2cmdline if os.name == "nt" else shlex.join
    return (
        f"{f'The newest checkpoint is {newest}' if newest else 'There is no checkpoint yet'}; go "
        f"on with: {launcher} -m {program_name()} --config "
        f"{quoted([str(run_dir / CONFIG_FILE), '--run-dir', str(run_dir)])} "
        f"--resume {'must' if newest else 'auto'}"
    )
