"""The references stay diffable: the same phases in the same order, and one text for the model."""

import difflib
import re
from pathlib import Path

import pytest

from .launching import PACKAGE, SOURCES

REFERENCES = SOURCES / PACKAGE / "reference"
PROGRAMS = [
    SOURCES / PACKAGE / "train.py",
    *(REFERENCES / f"{name}.py" for name in ("single", "data_parallel", "ddp", "fsdp2")),
]


def phases(program: Path) -> dict[str, str]:
    """Return the text under each one-word heading of a program."""
    text = program.read_text(encoding="utf-8")
    parts = re.split(r"^    # ([A-Z][a-z]+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_the_phases_come_in_one_order(program: Path) -> None:
    assert list(phases(program)) == ["Devices", "Data", "Model", "Strategy", "Loop", "Checkpoint"]


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_data_and_model_are_the_same_text(program: Path) -> None:
    for phase in ("Data", "Model"):
        assert phases(program)[phase] == phases(PROGRAMS[0])[phase]


@pytest.mark.parametrize(
    ("first", "second", "most"),
    [("single", "data_parallel", 10), ("single", "ddp", 35), ("ddp", "fsdp2", 25)],
)
def test_a_pair_differs_in_few_lines(first: str, second: str, most: int) -> None:
    before, after = (
        (REFERENCES / f"{name}.py").read_text(encoding="utf-8").splitlines()
        for name in (first, second)
    )
    changes = difflib.ndiff(before, after)

    assert sum(line.startswith("+ ") for line in changes) <= most
