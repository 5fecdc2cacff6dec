"""Projects that several tests look at, each rendered once."""

from pathlib import Path

import pytest

from .rendering import ANSWER_SETS, render


def label(answers: dict[str, str]) -> str:
    return "-".join(text or "no_email" for text in answers.values())


@pytest.fixture(scope="session", params=ANSWER_SETS, ids=label)
def answers(request: pytest.FixtureRequest) -> dict[str, str]:
    """Every combination of the choices, one after the other."""
    chosen: dict[str, str] = request.param
    return chosen


@pytest.fixture(scope="session")
def project(answers: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project that these answers render."""
    output = tmp_path_factory.mktemp("rendered")
    result = render(output, answers)
    assert result.returncode == 0, result.stderr
    return output / "my-run"


@pytest.fixture(scope="session")
def default_project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project of a person who presses Enter at every question."""
    output = tmp_path_factory.mktemp("default")
    result = render(output, {})
    assert result.returncode == 0, result.stderr
    return output / "my-run"
