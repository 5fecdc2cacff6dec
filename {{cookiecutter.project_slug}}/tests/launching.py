"""Start the project's programs as a user would, and read their outputs.

They train the small job in `tests/tiny/`, so that the tests of the engine know nothing of this
project's job and take no longer with it; with `sources=SOURCES` they train this project's.
"""

import atexit
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from my_run.settings.config_file import parse_config

from .tiny.config import TrainConfig

PACKAGE = "my_run"
TESTS = __name__.rpartition(".")[0]
SOURCES = Path(__file__).parents[1] / "src"
TINY = Path(__file__).parent / "tiny"
USERS_FILES = ("config", "data", "model", "optimizer", "pictures")
TIMEOUT_SECONDS = 200
SPEED = re.compile("[a-z]+_per_second|model_flops_utilization")


@cache
def tiny_sources() -> Path:
    """Return a folder with a copy of the package, in it the tiny job for the user's files."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    ignored = shutil.ignore_patterns("__pycache__")
    package = shutil.copytree(SOURCES / PACKAGE, folder / PACKAGE, ignore=ignored)
    for name in USERS_FILES:
        shutil.copy(TINY / f"{name}.py", package)
    return folder


@contextmanager
def tiny_job(program: ModuleType) -> Iterator[None]:
    """Let a module of the package use the tiny job inside, but for what a test has patched."""
    with pytest.MonkeyPatch.context() as patch:
        for file in USERS_FILES:
            users, tiny = import_module(f"{PACKAGE}.{file}"), import_module(f"{TESTS}.tiny.{file}")
            for name, value in list(vars(program).items()):
                if hasattr(tiny, name) and value is getattr(users, name, Ellipsis):
                    patch.setattr(program, name, getattr(tiny, name))
        yield


def start(
    program: str, *arguments: object, num_processes: int = 1, sources: Path | None = None
) -> subprocess.Popen[str]:
    """Start a program of the package; several processes by torchrun, which finds a free port."""
    launcher = [sys.executable, "-m"]
    if num_processes > 1:
        launcher += ["torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(num_processes), "-m"]
    command = [*launcher, f"{PACKAGE}.{program}", *map(str, arguments)]
    environment = os.environ | {"PYTHONPATH": str(sources or tiny_sources())}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def launch(
    program: str, *arguments: object, num_processes: int = 1, sources: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program of the package to its end."""
    process = start(program, *arguments, num_processes=num_processes, sources=sources)
    try:
        stdout, stderr = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        # Its workers too, where it did not end in time.
        with suppress(ProcessLookupError):
            if sys.platform == "win32":
                process.kill()
            else:
                os.killpg(process.pid, signal.SIGKILL)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def wait_for(step: int, run_dir: Path) -> None:
    """Wait until a run has logged `step`."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not any(line["step"] >= step for line in read_metrics(run_dir)):
        assert time.monotonic() < deadline, f"{run_dir} did not reach step {step}"
        time.sleep(0.02)


def run_train(
    run_dir: Path,
    *arguments: object,
    program: str = "train",
    num_processes: int = 1,
    sources: Path | None = None,
) -> Path:
    """Train into `run_dir` and return it; the run must exit with 0."""
    flags = ["--run-dir", run_dir, *arguments]
    if num_processes == 1 and program.startswith("reference.") and not sources:
        # Without Accelerate's state, a run can share this process, and saves the imports.
        module = import_module(f"{PACKAGE}.{program}")
        with tiny_job(module):
            module.train(parse_config(TrainConfig, [*map(str, flags)]))
        return run_dir
    done = launch(program, *flags, num_processes=num_processes, sources=sources)
    assert done.returncode == 0, done.stderr
    return run_dir


def read_summary(run_dir: Path) -> dict[str, Any]:
    summary: dict[str, Any] = json.loads((run_dir / "summary.json").read_text(encoding="utf-8"))
    return summary


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without what is measured in seconds."""
    file = run_dir / "metrics.jsonl"
    text = file.read_text(encoding="utf-8") if file.exists() else ""
    # A run that is under way may be in the middle of its last line.
    lines = [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]
    return [
        {name: value for name, value in line.items() if not SPEED.fullmatch(name)} for line in lines
    ]


def weight_difference(run_dir: Path, other: Path) -> float:
    """Return the largest difference between two runs' weights, relative to the largest weight."""
    weights, others = (load_file(folder / "model.safetensors") for folder in (run_dir, other))
    assert weights.keys() == others.keys()
    return max(map(largest, (weights[name] - others[name] for name in weights))) / max(
        map(largest, weights.values())
    )


def largest(tensor: Tensor) -> float:
    return float(tensor.abs().max())
