"""Start the project's programs as a user would, and read their outputs."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from my_run.config import TrainConfig
from my_run.data import (
    Digits,
    Split,
    describe,
    load_split,
)
from my_run.settings.config_file import parse_config

PACKAGE = "my_run"
SOURCES = Path(__file__).parents[1] / "src"
TIMEOUT_SECONDS = 200


def load(split: Split, *, augmented: bool = False) -> Digits:
    """Return a split with the default settings."""
    config = TrainConfig()
    return load_split(split, config, describe(config), augmented=augmented)


def start(program: str, *arguments: object, num_processes: int = 1) -> subprocess.Popen[str]:
    """Start a program of the package; several processes by torchrun, which finds a free port."""
    launcher = [sys.executable, "-m"]
    if num_processes > 1:
        launcher += ["torch.distributed.run", "--standalone"]
        launcher += ["--nproc-per-node", str(num_processes), "-m"]
    command = [*launcher, f"{PACKAGE}.{program}", *map(str, arguments)]
    # The package is found as pytest finds it, installed or not.
    environment = os.environ | {"PYTHONPATH": str(SOURCES)}
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        start_new_session=True,
    )


def launch(
    program: str, *arguments: object, num_processes: int = 1
) -> subprocess.CompletedProcess[str]:
    """Run a program of the package to its end."""
    process = start(program, *arguments, num_processes=num_processes)
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
    run_dir: Path, *arguments: object, program: str = "train", num_processes: int = 1
) -> Path:
    """Train into `run_dir` and return it; the run must exit with 0."""
    if num_processes == 1 and program.startswith("reference."):
        # Without Accelerate's state, a run can share this process, and saves the imports.
        module = import_module(f"{PACKAGE}.{program}")
        flags = ["--run-dir", str(run_dir), *map(str, arguments)]
        module.train(parse_config(TrainConfig, flags))
        return run_dir
    done = launch(program, "--run-dir", run_dir, *arguments, num_processes=num_processes)
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
        {name: value for name, value in line.items() if name != "samples_per_second"}
        for line in lines
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
