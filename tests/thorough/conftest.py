"""Where random numbers start, and the numbers that were found, shown at the end."""

import pytest


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--seed", type=int, default=0, help="of the random faults")


@pytest.fixture(scope="session")
def seed(request: pytest.FixtureRequest) -> int:
    """The seed of everything that the tests draw."""
    chosen: int = request.config.getoption("--seed")
    return chosen


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [f"{name:50} {text}" for report in reports for name, text in report.user_properties]
    if lines:
        terminalreporter.section("found")
        for line in lines:
            terminalreporter.write_line(line)
