"""Projects, and runs of a row: each in a process of its own, with one thread."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..projects import TEMPLATE, sources
from .recorder import OUTPUT, STARTED, STOP
from .rows import Job, Row

LOOPS = Path(__file__).with_name("loops")
JOBS = Path(__file__).with_name("jobs")
TIMEOUT_SECONDS = 900


class LoopFailed(Exception):
    """A loop that did not end well, with what it printed last."""


@dataclass(frozen=True)
class Workplace:
    """Folders with the projects and for the runs, and whether runs are on the GPU."""

    projects: Path
    """One project for each starter, under the starter's name."""

    scratch: Path
    is_gpu: bool
    steps: int | None = None
    """Optimizer steps; None is the job's."""

    def sources(self, job: Job) -> Path:
        """Return the sources of the starter's project with the job's files in place."""
        original = sources(job.starter, self.projects)
        if job.files is None:
            return original
        own = self.scratch / f"{job.files}-src"
        if not own.exists():
            shutil.copytree(original, own)
            for name in ("classification", job.files):
                shutil.copytree(JOBS / name, own / "my_run", dirs_exist_ok=True)
        return own

    def text_file(self, megabytes: int) -> Path:
        """Return a file of so many MB of words."""
        file = self.scratch / f"{megabytes}.txt"
        if not file.exists():
            words = "".join(random.Random(0).choices(["one ", "two ", "three\n"], k=250_000))
            part = words.encode()[:1_000_000]
            with file.open("wb") as opened:
                for _ in range(megabytes):
                    opened.write(part)
        return file

    def measure(self, job: Job, row: Row) -> dict[str, Any]:
        """Run a row once, and return what it noted.

        Raises:
            LoopFailed: it did not end well, or took other steps than it was asked for.
        """
        output, folder = self.scratch / "notes.json", self.scratch / "run"
        output.unlink(missing_ok=True)
        shutil.rmtree(folder, ignore_errors=True)
        flags = [*job.flags, *row.flags, "--placement", "single" if self.is_gpu else "cpu"]
        if row.text_megabytes:
            flags += ["--data-file", str(self.text_file(row.text_megabytes))]
        command = [sys.executable, "-m"]
        if row.num_processes > 1:
            command += ["torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(row.num_processes), "-m"]
        package, is_loop = __package__ + ".loops", (LOOPS / f"{row.loop}.py").exists()
        if is_loop:
            command += [f"{package}.{row.loop}", *flags]
        else:
            command += [f"{package}.program", row.loop, *flags, "--run-dir", str(folder)]
        environment = self.environment(job) | {OUTPUT: str(output)}
        steps = self.steps or job.steps
        if job.is_stopped:
            environment[STOP] = str(steps)
        # A run of the project must not be over before it is stopped.
        is_stopped = job.is_stopped and not is_loop
        command += ["--max-steps", str(1_000_000 if is_stopped else steps)]
        return run(command, environment, output)

    def environment(self, job: Job) -> dict[str, str]:
        """Return the environment of a loop."""
        paths = [str(self.sources(job)), str(TEMPLATE), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "TOKENIZERS_PARALLELISM": "false",
        }


def run(command: list[str], environment: dict[str, str], output: Path) -> dict[str, Any]:
    """Run a command to its end, and return its notes and the seconds that it took."""
    started = time.time()
    process = subprocess.Popen(
        command,
        env=environment | {STARTED: str(started)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    except BaseException:
        os.killpg(process.pid, signal.SIGKILL)
        raise
    if process.returncode or not output.exists():
        last = "\n".join(printed.splitlines()[-8:])
        raise LoopFailed(f"{' '.join(command)}: exit code {process.returncode}\n{last}")
    notes: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return notes | {"seconds": time.time() - started}
