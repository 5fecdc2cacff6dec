"""The runs that checks compare, each of them made once, and what is noted of each."""

import json
import os
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs import Run
from .job import Job, end_all, environment, package_of

TAIL_LINES = 40
# At least so long a run is judged by its accuracy.
FULL_STEPS = 150
# The first steps load kernels, and compile.
WARMUP_STEPS = 10


@dataclass
class Found:
    """What a check found: a text, and numbers for the JSON."""

    text: str
    values: dict[str, Any] = field(default_factory=dict)


class CannotRun(Exception):
    """What this machine lacks for a check."""


class RunFailed(Exception):
    """A run that did not end well, and the last lines that it printed."""

    def __init__(self, reason: str, output: str) -> None:
        super().__init__(reason)
        self.output = output


class Workplace:
    """A rendered project, the devices of this machine, and the runs made so far.

    Args:
        project: The rendered project.
        folder: For the runs.
        logs: For what they print.
        machine: What `probe.py` says; without GPUs, runs are on the CPU.
        steps: Optimizer steps of each run.
    """

    def __init__(
        self, project: Path, folder: Path, logs: Path, machine: dict[str, Any], steps: int
    ) -> None:
        self.project, self.folder, self.logs = project, folder, logs
        self.machine, self.steps = machine, steps
        self.package = package_of(project)
        self.num_gpus = len(machine["gpus"])
        self.device = "cuda" if self.num_gpus else "cpu"
        self.runs: dict[str, dict[str, Any]] = {}
        """What is noted of each run that ended well, by name."""

        self.deadline = float("inf")
        """Until when the present check has to be done."""

        self._made: dict[str, Run | RunFailed] = {}

    @property
    def is_full(self) -> bool:
        """Whether runs are long enough to judge them by their accuracy."""
        return self.steps >= FULL_STEPS

    def run(self, job: Job) -> Run:
        """Return a run, which is made where it has not been; one that failed fails again."""
        if job.name not in self._made:
            try:
                self._made[job.name] = self._make(job)
            except RunFailed as error:
                self._made[job.name] = error
        made = self._made[job.name]
        if isinstance(made, RunFailed):
            raise made
        return made

    def _make(self, job: Job) -> Run:
        run, started = Run(self.folder / slug(job.name)), time.monotonic()
        self.finish(self.start(job, run.folder), job)
        ran = [run.summary[name] for name in ("device", "placement", "world_size")]
        if ran != [self.device, job.strategy, job.num_processes]:
            raise RunFailed(f"{job.name}: what ran is {ran}", self.tail_of(job))
        self.note(job, run, time.monotonic() - started)
        return run

    def note(self, job: Job, run: Run, seconds: float) -> None:
        """Note what a report says of a run."""
        files = sorted(self.notes_of(job).glob("rank-*.json"))
        ranks = [json.loads(file.read_text(encoding="utf-8")) for file in files]
        memory = ("process_bytes", "allocated_bytes", "reserved_bytes")
        names = ("placement", "world_size", "exact", "mixed_precision", "micro_batch_size")
        self.runs[job.name] = {
            "command": self.command(job, run.folder),
            **{name: run.summary[name] for name in names},
            **{name: run.summary.get(name) for name in ("test_loss", "test_accuracy")},
            "backend": next((rank["backend"] for rank in ranks if "backend" in rank), None),
            **summarize_times(times_of(run)),
            **{name: max((rank.get(name, 0) for rank in ranks), default=0) for name in memory},
            "seconds": round(seconds, 1),
        }

    def start(self, job: Job, folder: Path, *flags: str) -> subprocess.Popen[bytes]:
        """Start a run in its folder; what it prints goes to a file of the folder of logs."""
        self.notes_of(job).mkdir(parents=True, exist_ok=True)
        with self.log_of(job).open("ab") as log:
            return subprocess.Popen(
                [*self.command(job, folder), *flags],
                stdout=log,
                stderr=subprocess.STDOUT,
                env=environment(self.project, self.devices(job.num_devices)),
                # So that its processes can be ended together.
                start_new_session=True,
            )

    def command(self, job: Job, folder: Path) -> list[str]:
        every = "10" if self.is_full else "1"
        settings = ["--max-steps", str(self.steps), "--log-every", every, "--eval-every", "50"]
        settings += ["--checkpoint-every", "0", "--tracker", "none", "--run-dir", str(folder)]
        return job.command(self.project, self.notes_of(job), self.device, settings)

    def devices(self, count: int) -> str:
        """Return the first of the GPUs that this program was given itself."""
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        names = given.split(",") if given else [str(index) for index in range(self.num_gpus)]
        return ",".join(names[:count]) if self.num_gpus else ""

    def finish(self, process: subprocess.Popen[bytes], job: Job) -> None:
        """Wait for a run, which must end well before the check's deadline."""
        seconds = max(1.0, self.deadline - time.monotonic())
        try:
            code = process.wait(timeout=min(seconds, 1e6))
        except subprocess.TimeoutExpired:
            raise RunFailed(f"{job.name}: not done in time", self.tail_of(job)) from None
        finally:
            end_all(process)
        if code:
            raise RunFailed(f"{job.name}: exit code {code}", self.tail_of(job))

    def notes_of(self, job: Job) -> Path:
        return self.folder / f"{slug(job.name)}-notes"

    def log_of(self, job: Job) -> Path:
        return self.logs / f"{slug(job.name)}.txt"

    def tail_of(self, job: Job) -> str:
        text = self.log_of(job).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-TAIL_LINES:])


def times_of(run: Run) -> list[float]:
    """Return the milliseconds of a step, each the mean between two lines of the log."""
    text = (run.folder / "metrics.jsonl").read_text(encoding="utf-8")
    lines = [line for line in map(json.loads, text.splitlines()) if line["split"] == "train"]
    warm = [line for line in lines if line["step"] > WARMUP_STEPS] or lines[-1:]
    samples = run.summary["global_batch_size"]
    return [1000 * samples / line["samples_per_second"] for line in warm]


def summarize_times(times: Sequence[float]) -> dict[str, float]:
    """Return 5th percentile, which is one of the times, and median.

    A percentile between two times is a weighted mean, and that of two equal times can round
    to more than their median.
    """
    fifth = sorted(times)[(len(times) - 1) // 20]
    return {"step_ms_p5": fifth, "step_ms_median": statistics.median(times)}


def slug(name: str) -> str:
    """Return a name for a file."""
    return "-".join("".join(x if x.isalnum() else " " for x in name).split())
