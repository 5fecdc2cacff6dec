"""What is needed to reproduce a run: command, code, versions, hardware."""

import json
import os
import platform
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from ..checkpoint.atomic import write_json

ENVIRONMENT_FILE = "environment.json"
PACKAGE_FOLDER = Path(__file__).parents[1]
PACKAGES = ("torch", "accelerate", "numpy", "scikit-learn", "safetensors")
# In a container, another user may own the repository: its commit counts all the same, and its
# settings must run nothing.
TRUSTED = ("-c", "safe.directory=*", "-c", "core.fsmonitor=false")
RECORDED_VARIABLES = ("RANK", "WORLD_SIZE", "CUDA_VISIBLE_DEVICES")
MAX_DIFF_CHARACTERS = 200_000
MAX_UNTRACKED_FILES = 50
# A patch that `git apply` reads, whatever the user's settings are.
DIFF = (
    *("diff", "--no-ext-diff", "--no-textconv", "--no-color", "--no-relative", "-U3"),
    *("--src-prefix=a/", "--dst-prefix=b/"),
)


def write_environment(run_dir: Path, machines: Sequence[Mapping[str, Any]] = ()) -> None:
    """Write `environment.json`; earlier starts of the run are kept in its `earlier_starts`.

    Args:
        run_dir: Folder of the run.
        machines: What `describe_machine` returned on each, if there are several.
    """
    earlier = read_environment(run_dir)
    environment = _environment()
    if len(machines) > 1:
        environment["machines"] = list(machines)
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


def describe_machine() -> dict[str, Any]:
    """Return name, commit, versions and hardware of this machine."""
    commit = _git(PACKAGE_FOLDER, "rev-parse", "HEAD")
    return {
        "host": socket.gethostname(),
        "git_commit": commit.strip() if commit else None,
        "python": platform.python_version(),
        # torch's own attribute names the CUDA that it was built for; its metadata may not.
        "packages": {name: _version(name) for name in PACKAGES} | {"torch": torch.__version__},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        "accelerators": [
            torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())
        ],
    }


def _environment() -> dict[str, Any]:
    return {
        "command": [sys.executable, *sys.orig_argv[1:]],
        "process_id": os.getpid(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_machine(),
        **describe_code(PACKAGE_FOLDER),
        "threads_per_process": torch.get_num_threads(),
        "launcher_variables": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in RECORDED_VARIABLES or name.startswith("SLURM_JOB")
        },
    }


def describe_code(folder: Path) -> dict[str, Any]:
    """Return commit and uncommitted changes of the repository that `folder` is in.

    `git_is_missing_because` says why there is none; all others are None then. `git_diff` is a patch
    on the commit, for `git apply`: of all tracked files, and of untracked Python files in `folder`.
    It has no binary files, and is limited to 200,000 characters and 50 untracked files;
    `git_diff_is_complete` says whether that was enough.
    """
    top = _git(folder, "rev-parse", "--show-toplevel")
    commit = _git(folder, "rev-parse", "HEAD")
    if commit is None or top is None or not _git(folder, "ls-files", "--", str(folder)):
        # Another repository's commit would say nothing about this code.
        unknown = ("git_commit", "git_is_clean", "git_diff", "git_diff_is_complete")
        reason = "not tracked" if commit else "there is no commit yet"
        if top is None:
            reason = "git failed, or there is no repository"
        return {**dict.fromkeys(unknown), "git_is_missing_because": f"{folder}: {reason}"}
    root = Path(top.removesuffix("\n"))
    status = _git(root, "status", "--porcelain")
    diff = _git(root, *DIFF, "HEAD")
    untracked = _untracked_modules(root, folder)
    if diff is not None:
        diff += "".join(_diff_of_new(root, name) for name in untracked[:MAX_UNTRACKED_FILES])
    is_complete = (
        len(diff or "") <= MAX_DIFF_CHARACTERS
        and len(untracked) <= MAX_UNTRACKED_FILES
        and "\nBinary files " not in (diff or "")
    )
    return {
        "git_commit": commit.strip(),
        "git_is_clean": None if status is None else not status,
        "git_diff": diff[:MAX_DIFF_CHARACTERS] if diff else None,
        "git_diff_is_complete": None if diff is None else is_complete,
    }


def _untracked_modules(root: Path, folder: Path) -> list[str]:
    """Return the untracked Python files in `folder`, which .gitignore does not exclude."""
    listed = _git(root, "ls-files", "--others", "--exclude-standard", "-z", "--", str(folder))
    return [name for name in (listed or "").split("\0") if name.endswith(".py")]


def _diff_of_new(root: Path, name: str) -> str:
    """Return a patch that creates a file."""
    # Exit code 1 means that the files differ.
    return _git(root, *DIFF, "--no-index", "--", "/dev/null", name, exit_codes=(0, 1)) or ""


def _git(folder: Path, *arguments: str, exit_codes: tuple[int, ...] = (0,)) -> str | None:
    """Return what git prints in a folder, or None if it fails or is not installed.

    Bytes that are not UTF-8 become surrogates, and line ends stay as they are. What is longer than
    the largest diff is cut off.
    """
    git = shutil.which("git")
    if git is None:
        return None
    command = [git, *TRUSTED, "-C", str(folder), *arguments]
    try:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=_environment_for_git()
        )
    except OSError:  # A program for another machine, for example.
        return None
    with process:
        assert process.stdout is not None
        # A character has four bytes at most.
        output = process.stdout.read(4 * MAX_DIFF_CHARACTERS + 4)
        is_cut = bool(process.stdout.read(1))
        if is_cut:
            process.kill()
    if not is_cut and process.returncode not in exit_codes:
        return None
    return output.decode("utf-8", "surrogateescape")


def _environment_for_git() -> dict[str, str]:
    """Return an environment in which no variable points git at another repository."""
    return {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
