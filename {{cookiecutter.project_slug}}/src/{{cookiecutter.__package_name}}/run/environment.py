"""What is needed to repeat and to judge a run: command, code, versions, hardware."""

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

from ..checkpoint.atomic import write_json

ENVIRONMENT_FILE = "environment.json"
PACKAGES = ("torch", "accelerate", "numpy", "scikit-learn", "safetensors")
LAUNCHER_VARIABLES = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
MAX_DIFF_CHARACTERS = 200_000
MAX_UNTRACKED_FILES = 50
# A patch that `git apply` reads, whatever the user's settings are.
DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)


def write_environment(run_dir: Path) -> None:
    """Write `environment.json`; what it held of earlier starts of the run is kept in it."""
    earlier = read_environment(run_dir)
    environment = _environment()
    if earlier:
        before = earlier.pop("earlier_starts", [])
        environment["earlier_starts"] = [*before, earlier]
    write_json(run_dir / ENVIRONMENT_FILE, environment)


def read_environment(run_dir: Path) -> dict[str, Any]:
    """Return the content of `environment.json`, empty if it is missing or incomplete."""
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
        **describe_code(Path(__file__).parents[1]),
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


def describe_code(folder: Path) -> dict[str, Any]:
    """Return commit and uncommitted changes of the repository that `folder` is in.

    `git_diff` is a patch on the commit, for `git apply`: of all tracked files, and of Python files
    in `folder` that are not tracked yet. Past 200,000 characters it is cut off, which
    `git_diff_is_complete` says. All are None where git fails.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    root = Path(top.removesuffix("\n")) if top else folder
    commit = _git(root, "rev-parse", "HEAD")
    status = _git(root, "status", "--porcelain")
    diff = _git(root, *DIFF, "--binary", "HEAD")
    if diff is not None:
        diff += _diff_of_untracked(root, folder)
    return {
        "git_commit": commit.strip() if commit else None,
        "git_is_clean": None if status is None else not status,
        "git_diff": diff[:MAX_DIFF_CHARACTERS] if diff else None,
        "git_diff_is_complete": None if diff is None else len(diff) <= MAX_DIFF_CHARACTERS,
    }


def _diff_of_untracked(root: Path, folder: Path) -> str:
    """Return a patch that creates the untracked Python files in `folder`."""
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", str(folder))
    names = [name for name in (listed or "").split("\0") if name.endswith(".py")]
    patches = [
        # Exit code 1 means that the files differ.
        _git(root, *DIFF, "--no-index", "--", "/dev/null", name, exit_codes=(0, 1)) or ""
        for name in names[:MAX_UNTRACKED_FILES]
    ]
    return "".join(patches)


def _git(folder: Path, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> str | None:
    """Return what git prints in a folder, None if it fails or is not installed."""
    git = shutil.which("git")
    if git is None:
        return None
    run = subprocess.run(
        [git, "-C", str(folder), *arguments],
        capture_output=True,
        encoding="utf-8",
        errors="surrogateescape",
    )
    return run.stdout if run.returncode in exit_codes else None


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
