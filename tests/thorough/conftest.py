"""The numbers that the comparisons found, shown at the end."""

import pytest


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    reports = [*terminalreporter.getreports("passed"), *terminalreporter.getreports("failed")]
    lines = [f"{name:30}{text}" for report in reports for name, text in report.user_properties]
    if lines:
        terminalreporter.section("largest differences")
        for line in lines:
            terminalreporter.write_line(line)
