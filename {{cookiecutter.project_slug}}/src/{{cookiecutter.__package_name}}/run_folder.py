"""The folder of a run: a new or empty one, with what is needed to repeat and to judge the run."""

import itertools
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .config import CONFIG_FILE, SettingError, TrainConfig, save_config
from .devices import Devices

PACKAGES = ("torch", "accelerate", "numpy", "scikit-learn", "safetensors")
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "OMP_NUM_THREADS", "CUDA_VISIBLE_DEVICES")


def check_run_folder(config: TrainConfig, devices: Devices) -> None:
    """Look whether a run can be written to `config.run_dir`; changes nothing.

    Only rank 0 looks: the others may come when it has made the folder already.

    Raises:
        SettingError: it cannot be written, holds a run already, or holds anything else.
    """
    if devices.rank != 0:
        return
    run_dir = config.run_dir or Path("runs")
    if (run_dir / CONFIG_FILE).exists():
        raise SettingError(
            f"run_dir {run_dir} already holds a run; try --run-dir {_next_free(run_dir)}"
        )
    if config.run_dir and run_dir.is_dir() and any(run_dir.iterdir()):
        raise SettingError(
            f"run_dir {run_dir} is not empty and holds no run; try --run-dir {_next_free(run_dir)}"
        )
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise SettingError(f"run_dir {run_dir} cannot be made: {nearest} is a file; name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingError(f"run_dir {run_dir} cannot be written in {nearest}; name another")


def start_run_folder(config: TrainConfig) -> Path:
    """Create the folder with `config.yaml` and `environment.json`, and return it.

    Without `config.run_dir` it is `runs/` and the time, in UTC.

    Raises:
        SettingError: it cannot be created.
    """
    run_dir = config.run_dir
    if run_dir is None:
        run_dir = Path("runs") / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}"
        run_dir = _next_free(run_dir) if run_dir.exists() else run_dir
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        save_config(config, run_dir)
        write_json(run_dir / "environment.json", _environment())
    except OSError as error:
        raise SettingError(f"run_dir {run_dir} cannot be written: {error.strerror}") from error
    return run_dir


def _next_free(run_dir: Path) -> Path:
    names = (run_dir.with_name(f"{run_dir.name}-{count}") for count in itertools.count(2))
    return next(path for path in names if not path.exists())


def _environment() -> dict[str, Any]:
    """Return what is needed to repeat and to judge the run: versions, hardware, command."""
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "git_commit": _git("rev-parse", "HEAD"),
        "git_is_clean": _git("status", "--porcelain") == "",
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "threads_per_process": torch.get_num_threads(),
        "accelerators": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
        "launcher_variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in LAUNCHER_VARIABLES or name.startswith("SLURM_JOB")
        },
    }


def _git(*arguments: str) -> str | None:
    """Return what git prints about the source code, None where it is in no repository."""
    git = shutil.which("git")
    if git is None:
        return None
    folder = Path(__file__).parent
    run = subprocess.run([git, "-C", str(folder), *arguments], capture_output=True, text=True)
    return run.stdout.strip() if run.returncode == 0 else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def write_json(file: Path, values: Mapping[str, Any]) -> None:
    """Write `values` as JSON that a person can read."""
    file.write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
