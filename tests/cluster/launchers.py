"""Launchers on the machines of the network: what a user types on each, and how it ends."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from .network import on, processes_on

# The small job then waits in each forward pass, and leaves the cores to other tests.
PACE = {"TINY_SECONDS_PER_BATCH": "0.04"}
# Another disk for a machine: the run folders and temporary files of its own.
OWN_DISK = 'mount --bind "$TMPDIR/runs" runs && exec "$@"'


class Launcher:
    """A command on a machine, in the project's folder; its process is the launcher's own."""

    def __init__(
        self, machine: str, command: Sequence[str], project: Path, disk: Path, *, is_own: bool
    ) -> None:
        self.machine = machine
        self.disk = disk
        (disk / "runs").mkdir(parents=True, exist_ok=True)
        (project / "runs").mkdir(exist_ok=True)
        self._output = disk / f"{machine}.output"
        binaries = Path(sys.executable).parent
        words = ["bash", "-c", OWN_DISK, "disk"] if is_own else []
        with self._output.open("wb") as output:
            self.process = subprocess.Popen(
                [*on(machine), *words, *command],
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=project,
                start_new_session=True,
                env=os.environ
                | PACE
                | {
                    "PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}",
                    "PYTHONPATH": str(project / "src"),
                    "OMP_NUM_THREADS": "1",
                    # The command asks for DDP, which would take GPUs where there are any.
                    "ACCELERATE_USE_CPU": "true",
                    "TMPDIR": str(disk),
                },
            )

    @property
    def printed(self) -> str:
        return self._output.read_text(encoding="utf-8", errors="replace")

    @property
    def workers(self) -> list[int]:
        """The training processes on the machine, whoever started them."""
        return processes_on(self.machine, "-m my_run.train", but=self.process.pid)

    def wait_for_end_of_workers(self, seconds: float) -> None:
        wait_until(lambda: self.workers == [], f"the end of processes on {self.machine}", seconds)

    def kill_worker(self) -> None:
        for worker in self.workers:
            with suppress(ProcessLookupError):
                os.kill(worker, signal.SIGKILL)


def ends_of(launchers: Sequence[Launcher], seconds: float) -> list[tuple[int, float]]:
    """Wait until all have ended; return the exit code of each and the seconds until then."""
    start = time.monotonic()
    ended: dict[Launcher, tuple[int, float]] = {}
    while len(ended) < len(launchers):
        for launcher in launchers:
            if launcher not in ended and launcher.process.poll() is not None:
                ended[launcher] = launcher.process.returncode, time.monotonic() - start
        left = [launcher for launcher in launchers if launcher not in ended]
        assert not left or time.monotonic() < start + seconds, (
            f"{left[0].machine} still runs after {seconds} s: {left[0].printed[-2000:]}"
        )
        time.sleep(0.02)
    return [ended[launcher] for launcher in launchers]


def wait_until(is_reached: Callable[[], bool], what: str, seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not is_reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
