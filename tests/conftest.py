"""Projects that several tests look at, each rendered once."""

import signal
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings

from .rendering import ANSWER_SETS, STARTERS, render, render_in_process

# The first is repeatable; `nox -s answers` draws other answers each time, from the seed it shows.
settings.register_profile("short", max_examples=60, derandomize=True, database=None)
settings.register_profile("thorough", max_examples=2000, database=None, print_blob=True)
settings.load_profile("short")
# What a shell ignores for its background jobs, the programs that the tests start would ignore too.
for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(getattr(signal, name), default)
# What became of generated answers.
COUNTS = pytest.StashKey[Counter[str]]()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    counts = terminalreporter.config.stash.get(COUNTS, Counter())
    for what, count in sorted(counts.items()):
        terminalreporter.write_line(f"{count:6} {what}")


@pytest.fixture(scope="session", params=ANSWER_SETS.values(), ids=list(ANSWER_SETS))
def answers(request: pytest.FixtureRequest) -> dict[str, str]:
    """Every combination of the choices, one after the other."""
    chosen: dict[str, str] = request.param
    return chosen


@pytest.fixture(scope="session")
def project(answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that these answers render."""
    output = tmp_path_factory.mktemp("rendered")
    render_in_process(output, answers)
    return output / answers.get("project_slug", "my-run")


@pytest.fixture(scope="session")
def starter_projects(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A project of each starter."""
    projects = {}
    for starter in STARTERS:
        output = tmp_path_factory.mktemp(starter)
        render_in_process(output, {"starter": starter})
        projects[starter] = output / "my-run"
    return projects


@pytest.fixture(scope="session")
def default_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of a person who presses Enter at every question."""
    output = tmp_path_factory.mktemp("default")
    result = render(output, {})
    assert result.returncode == 0, result.stderr
    return output / "my-run"
