"""Whole runs of a rendered project's programs, and how far two of them lie apart.

Needs no more than Python's own library: the project's Python computes, this only reads files.
"""

import json
import os
import re
import subprocess
import sys
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

SPEED = re.compile("[a-z]+_per_second|model_flops_utilization")
STRATEGIES_OF_SEVERAL = ("reference.ddp", "reference.fsdp2")
TIMEOUT_SECONDS = 400


@dataclass(frozen=True)
class Run:
    """A finished run and its folder."""

    folder: Path

    @property
    def summary(self) -> dict[str, Any]:
        text = (self.folder / "summary.json").read_text(encoding="utf-8")
        summary: dict[str, Any] = json.loads(text)
        return summary

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl, without what is measured in seconds."""
        text = (self.folder / "metrics.jsonl").read_text(encoding="utf-8")
        lines = [json.loads(line) for line in text.splitlines()]
        return [
            {name: value for name, value in line.items() if not SPEED.fullmatch(name)}
            for line in lines
        ]

    @property
    def weights_file(self) -> bytes:
        return (self.folder / "model.safetensors").read_bytes()

    @property
    def weights(self) -> dict[str, Sequence[float]]:
        """The weights by name, flat; the header of the file says where each one lies."""
        header_bytes = int.from_bytes(self.weights_file[:8], "little")
        header = json.loads(self.weights_file[8 : 8 + header_bytes])
        data = self.weights_file[8 + header_bytes :]
        header.pop("__metadata__", None)
        assert {entry["dtype"] for entry in header.values()} == {"F32"}
        return {
            name: array("f", data[slice(*entry["data_offsets"])]) for name, entry in header.items()
        }


def start(
    project: Path,
    program: str,
    *arguments: object,
    num_processes: int = 1,
    environment: Mapping[str, str] | None = None,
    before: Sequence[str] = (),
) -> subprocess.Popen[str]:
    """Start a program of `project`; both its outputs come as one.

    The references of several processes start them by themselves, others are started by torchrun,
    and "accelerate" is the main line as `accelerate launch` starts it. A program's name with a
    slash is a script, which may import the package. `before` stands before the command.
    """
    command = [*before, sys.executable]
    words = [str(argument) for argument in arguments]
    if program == "accelerate":
        name = "cpu_two_processes" if num_processes == 2 else "one_gpu"
        command += ["-m", "accelerate.commands.launch", "--config_file"]
        command += [str(project / "launch" / f"{name}.yaml")]
        program = "train"
    elif program in STRATEGIES_OF_SEVERAL:
        words += ["--num-processes", str(num_processes)]
    elif num_processes > 1:
        command += ["-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(num_processes)]
    command += [program] if "/" in program else ["-m", f"my_run.{program}"]
    return subprocess.Popen(
        [*command, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=os.environ
        | {"PYTHONPATH": str(project / "src"), "OMP_NUM_THREADS": "1", **(environment or {})},
    )


def finish(job: subprocess.Popen[str]) -> str:
    """Wait for a job, which must end well, and return all that it printed."""
    printed, _ = job.communicate(timeout=TIMEOUT_SECONDS)
    assert job.returncode == 0, f"{job.args!r}\n{printed[-4000:]}"
    assert "terminate called" not in printed, printed[-4000:]
    return printed


def launch(
    project: Path,
    program: str,
    *arguments: object,
    num_processes: int = 1,
    environment: Mapping[str, str] | None = None,
) -> str:
    """Run a program as `start` does, to its end, and return all that it prints."""
    return finish(
        start(project, program, *arguments, num_processes=num_processes, environment=environment)
    )


def train(
    project: Path,
    folder: Path,
    program: str,
    *settings: object,
    num_processes: int = 1,
    placement: str | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Train into `folder`; what really ran must be the program's strategy on these processes."""
    if placement is None:
        several = "single" if num_processes == 1 else "ddp"
        placement = several if program == "train" else program.rpartition(".")[2]
    launch(
        project,
        program,
        *settings,
        *("--run-dir", folder),
        num_processes=num_processes,
        environment=environment,
    )
    run = Run(folder)
    ran = (run.summary["placement"], run.summary["world_size"])
    assert ran == (placement, num_processes), ran
    return run


@dataclass(frozen=True)
class Difference:
    """The largest differences of two runs."""

    loss: float
    """Relative; of training, validation and test."""

    grad_norm: float
    """Relative; the norm before clipping, which clipping would hide in the weights."""

    weights: float
    """Relative to the largest weight."""

    def __str__(self) -> str:
        return (
            f"loss {self.loss:.1e}  gradient norm {self.grad_norm:.1e}  weights {self.weights:.1e}"
        )


def difference(run: Run, expected: Run) -> Difference:
    """Compare two runs that logged the same steps."""
    pairs = list(zip(run.metrics, expected.metrics, strict=True))
    for line, other in pairs:
        assert (line["split"], line["step"]) == (other["split"], other["step"])
    weights, others = run.weights, expected.weights
    assert weights.keys() == others.keys()
    largest = max(abs(value) for values in others.values() for value in values)
    return Difference(
        loss=max(relative(line["loss"], other["loss"]) for line, other in pairs),
        grad_norm=max(
            relative(line["grad_norm"], other["grad_norm"])
            for line, other in pairs
            if line["split"] == "train"
        ),
        weights=max(
            abs(value - other)
            for name in weights
            for value, other in zip(weights[name], others[name], strict=True)
        )
        / largest,
    )


def relative(value: float, expected: float) -> float:
    return abs(value - expected) / abs(expected)


def assert_same_bits(run: Run, expected: Run) -> None:
    """Compare everything but the time that two runs took."""
    assert run.summary["exact"] and expected.summary["exact"]
    assert run.metrics == expected.metrics
    assert run.weights_file == expected.weights_file
    results = {name for name in expected.summary if name.startswith("test_")}
    assert "test_samples" in results
    for name in results:
        assert run.summary[name] == expected.summary[name], name
