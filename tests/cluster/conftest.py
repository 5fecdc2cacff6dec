"""Stop where there can be no machines; take them down at a signal; show what was measured."""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Protocol

import pytest

from ..runs import Run, train
from .network import obstacle

FLAGS = "--placement cpu --tracker none --log-every 1 --checkpoint-every 5".split()
FLAGS += "--micro-batch-size 16".split()
# What happens to a run after a few steps finds it under way for four seconds or more; see PACE.
STEPS = "--max-steps 60 --eval-every 30".split()
ENDLESS = "--max-steps 100000 --eval-every 0".split()
# The property of a test that holds a line of the summary.
MEASURED = "measured"


class Record(Protocol):
    """Note the seconds from `start`, of the monotonic clock, to now, or those given."""

    def __call__(self, what: str, start: float, seconds: float | None = None) -> None: ...


def pytest_sessionstart(session: pytest.Session) -> None:
    if reason := obstacle():
        pytest.exit(f"there can be no machines of a network here: {reason}", returncode=1)
    # The project's modules are compiled once, and not for each of a hundred processes.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    # Python would end at once, and leave them.
    signal.signal(signal.SIGTERM, stop)


def stop(number: int, frame: FrameType | None) -> None:
    pytest.exit("stopped by SIGTERM", returncode=128 + number)


@pytest.fixture(scope="session")
def small_project(default_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with the small job of its own tests, whose processes start in half the time."""
    folder = tmp_path_factory.mktemp("small") / default_project.name
    shutil.copytree(default_project, folder)
    for file in (folder / "tests" / "tiny").glob("[!_]*.py"):
        shutil.copy(file, folder / "src" / "my_run")
    return folder


@pytest.fixture(scope="session")
def undisturbed(small_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process on this machine, without a launcher, and nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return train(small_project, folder, "train", *FLAGS, *STEPS)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """A function that puts a time into the summary of the tests."""

    def note(what: str, start: float, seconds: float | None = None) -> None:
        passed = time.monotonic() - start if seconds is None else seconds
        request.node.user_properties.append((MEASURED, f"{passed:6.1f} s  {what}"))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for line in measured(terminalreporter):
        terminalreporter.write_line(line)


def measured(terminalreporter: pytest.TerminalReporter) -> Iterator[str]:
    """Return the lines of all tests, also of those that another process ran."""
    for report in (report for reports in terminalreporter.stats.values() for report in reports):
        if isinstance(report, pytest.TestReport) and report.when == "call":
            yield from (str(line) for name, line in report.user_properties if name == MEASURED)
