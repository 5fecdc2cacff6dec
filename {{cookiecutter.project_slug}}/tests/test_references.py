"""The five programs are one run: the same phases, the same statements, few lines apart."""

import ast
import difflib
import re
import sys
from pathlib import Path

import pytest

from my_run.reference import (
    __main__ as side_by_side,
)

from .launching import PACKAGE, SOURCES, launch

PHASES = ["Devices", "Data", "Model", "Strategy", "Loop", "Checkpoint"]
PROGRAMS = {
    "train": SOURCES / PACKAGE / "train.py",
    **{
        name: SOURCES / PACKAGE / "reference" / f"{name}.py"
        for name in ("single", "data_parallel", "ddp", "fsdp2")
    },
}
# Each is read against the program on its left.
PAIRS = [("single", "data_parallel"), ("single", "ddp"), ("ddp", "fsdp2"), ("ddp", "train")]
# What a step does, in this order; a name for each call that differs from program to program.
STATEMENTS = [
    *("next", "seed_forward", "compute_loss", "per_item", "backward", "collect", "finish"),
    *("clip", "set_learning_rate", "should_step", "step", "zero_grad", "add"),
    *("advance", "syncs_at", "check", "logs_at", "mean_loss", "log_training"),
    *("validates_at", "evaluating", "evaluate", "log_evaluation", "agree", "due_at", "save"),
    *("evaluating", "evaluate", "log_evaluation", "finish"),
]
SYNONYMS = {"clip_grad_norm_": "clip", "clip_shards_": "clip"}


def read(name: str) -> str:
    """Return a program, its imports as from the package itself."""
    text = PROGRAMS[name].read_text(encoding="utf-8")
    return re.sub(r"^from \.\.", "from .", text, flags=re.MULTILINE)


def phases(name: str) -> dict[str, str]:
    """Return the text under each one-word heading of a program."""
    text, _, _ = read(name).partition("\n\n\nif __name__")
    parts = re.split(r"^ +# ([A-Z][a-z]+)$", text, flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_phases_come_in_one_order(name: str) -> None:
    assert list(phases(name)) == PHASES


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_step_is_the_same_statements_in_the_same_order(name: str) -> None:
    [function] = [
        node
        for node in ast.walk(ast.parse(read(name)))
        if isinstance(node, ast.FunctionDef) and node.name == "train"
    ]
    [loop] = [node for node in function.body if isinstance(node, ast.With)]
    calls = [node for node in ast.walk(loop) if isinstance(node, ast.Call)]
    calls.sort(key=lambda call: (call.end_lineno, call.end_col_offset))
    names = [
        call.func.attr if isinstance(call.func, ast.Attribute) else call.func.id
        for call in calls
        if isinstance(call.func, ast.Attribute | ast.Name)
    ]
    found = [SYNONYMS.get(name, name) for name in names]

    assert [name for name in found if name in STATEMENTS] == STATEMENTS


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_the_docstring_names_exactly_the_phases_that_differ(left: str, right: str) -> None:
    docstring = ast.get_docstring(ast.parse(read(right))) or ""
    [against] = re.findall(r"^Against `(?:reference/)?(\w+)\.py`:$", docstring, re.MULTILINE)
    named = re.findall(r"^- ([A-Z]\w+): \S", docstring, re.MULTILINE)
    before, after = phases(left), phases(right)

    assert against == left
    assert named == [phase for phase in PHASES if before[phase] != after[phase]]


@pytest.mark.parametrize(("pair", "most"), [*zip(PAIRS, [11, 20, 23, 27], strict=True)])
def test_a_pair_differs_in_few_lines(pair: tuple[str, str], most: int) -> None:
    before, after = (read(name).splitlines() for name in pair)

    assert sum(line.startswith("+ ") for line in difflib.ndiff(before, after)) <= most


def test_the_differences_are_shown_side_by_side(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe, as here: each changed line once, and no escape codes."""
    monkeypatch.setattr(sys, "argv", ["reference", "ddp", "train"])
    side_by_side.main()
    printed = capsys.readouterr().out
    _, _, before = read("ddp").split('"""', maxsplit=2)
    _, _, after = read("train").split('"""', maxsplit=2)
    changes = [
        line for line in difflib.ndiff(before.splitlines(), after.splitlines()) if line[2:].strip()
    ]

    assert "\x1b" not in printed
    for change in changes:
        if change.startswith("- "):
            assert re.search(rf"^{re.escape(change[2:])} +[|<]", printed, re.MULTILINE), change
        if change.startswith("+ "):
            assert re.search(rf"[|>] {re.escape(change[2:])}$", printed, re.MULTILINE), change
    assert printed.count("\nDevices\n") and printed.count("\nLoop\n")
    assert "Data" not in re.findall(r"^(\w+)$", printed, re.MULTILINE)


def test_an_unknown_program_is_a_one_line_error() -> None:
    done = launch("reference", "single", "dpp")

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "'dpp'" in line and "data_parallel" in line


def test_every_program_is_compared() -> None:
    files = {path.stem for path in Path(PROGRAMS["ddp"]).parent.glob("[!_]*.py")}

    assert {*files, "train"} == set(PROGRAMS) == {name for pair in PAIRS for name in pair}
