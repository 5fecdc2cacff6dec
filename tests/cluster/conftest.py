"""Stop where there can be no machines; take them down at a signal; show what was measured."""

import signal
from collections.abc import Callable
from types import FrameType

import pytest

from .network import obstacle

# What happened, and the seconds that it took.
Record = Callable[[str, float], None]
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
    return lambda what, seconds: measured.append((what, seconds))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    for what, seconds in terminalreporter.config.stash.get(MEASURED, []):
        terminalreporter.write_line(f"{seconds:6.1f} s  {what}")
