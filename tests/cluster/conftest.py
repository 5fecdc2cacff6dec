"""Stop where there can be no machines; take them down at a signal; show what was measured."""

import signal
import time
from types import FrameType
from typing import Protocol

import pytest

from .network import obstacle


class Record(Protocol):
    """Note the seconds from `start`, of the monotonic clock, to now, or those given."""

    def __call__(self, what: str, start: float, seconds: float | None = None) -> None: ...


MEASURED = pytest.StashKey[list[tuple[str, float]]]()


def pytest_sessionstart(session: pytest.Session) -> None:
    if reason := obstacle():
        pytest.exit(f"there can be no machines of a network here: {reason}", returncode=1)
    # Python would end at once, and leave them.
    signal.signal(signal.SIGTERM, stop)


def stop(number: int, frame: FrameType | None) -> None:
    pytest.exit("stopped by SIGTERM", returncode=128 + number)


@pytest.fixture
def record(request: pytest.FixtureRequest) -> Record:
    """A function that puts a time into the summary of the tests."""
    measured = request.config.stash.setdefault(MEASURED, [])

    def note(what: str, start: float, seconds: float | None = None) -> None:
        measured.append((what, time.monotonic() - start if seconds is None else seconds))

    return note


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, seconds in terminalreporter.config.stash.get(MEASURED, []):
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")
