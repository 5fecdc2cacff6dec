"""What is needed to repeat and to judge a run: versions, hardware, command."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from .files import write_json

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("torch", "accelerate", "numpy", "scikit-learn", "safetensors")
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")


def write_environment(run_dir: Path) -> None:
    """Write `environment.json`; what it held of earlier starts of the run is kept in it."""
    earlier = read_environment(run_dir)
    environment = _environment()
    if earlier:
        before = earlier.pop("earlier_starts", [])
        environment["earlier_starts"] = [*before, earlier]
    write_json(run_dir / ENVIRONMENT_FILE, environment)


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Return what `environment.json` holds, nothing where it is missing or was cut off."""
    try:
        text = (run_dir / ENVIRONMENT_FILE).read_text(encoding="utf-8")
        environment: dict[str, Any] = json.loads(text)
    except (OSError, ValueError):
        return {}
    return environment


def _environment() -> dict[str, Any]:
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "host": socket.gethostname(),
        "process_id": os.getpid(),
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
