"""What a person at a terminal is asked and told."""

import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path

import pytest

from .rendering import CHOICES, QUESTIONS, TEMPLATE, clean_environment, files_under

PROMPTS = CHOICES["__prompts__"]
TIMEOUT_SECONDS = 60


def converse(folder: Path, typed: list[str]) -> tuple[int, str]:
    """Run cookiecutter at a terminal of its own, type a line at each prompt that it waits at.

    Returns:
        The exit code, and what stands on the terminal in the end.
    """
    home = folder / "home"
    home.mkdir()
    terminal, end_of_program = pty.openpty()
    program = subprocess.Popen(
        [sys.executable, "-m", "cookiecutter", "--output-dir", str(folder / "out"), str(TEMPLATE)],
        stdin=end_of_program,
        stdout=end_of_program,
        stderr=end_of_program,
        env=clean_environment() | {"HOME": str(home), "TERM": "dumb", "COLUMNS": "100"},
    )
    os.close(end_of_program)
    shown, lines, deadline = b"", list(typed), time.monotonic() + TIMEOUT_SECONDS
    while time.monotonic() < deadline:
        if select.select([terminal], [], [], 0.1)[0]:
            try:
                shown += os.read(terminal, 65536)
            except OSError:
                # Linux tells so that the other end is closed.
                break
        elif shown.endswith(b": ") and lines:
            os.write(terminal, lines.pop(0).encode() + b"\n")
            # The terminal shows what is typed.
            shown += os.read(terminal, 65536)
    os.close(terminal)
    return program.wait(timeout=TIMEOUT_SECONDS), shown.decode().replace("\r\n", "\n")


def test_pressing_enter_at_every_question_renders_the_defaults(
    default_project: Path, tmp_path: Path
) -> None:
    code, shown = converse(tmp_path, [""] * len(QUESTIONS))
    assert code == 0, shown
    project = tmp_path / "out" / "my-run"
    assert files_under(project) == files_under(default_project)
    for name in files_under(default_project):
        assert (project / name).read_bytes() == (default_project / name).read_bytes(), name
    for number, question in enumerate(QUESTIONS, 1):
        sentence = PROMPTS[question]
        if isinstance(sentence, dict):
            sentence = sentence["__prompt__"]
        assert f"[{number}/{len(QUESTIONS)}] {sentence}" in shown
    for default in ("(My Run): ", "(my-run): ", "(Train and test a PyTorch model.): "):
        assert default in shown
    assert shown.endswith("  python -m my_run.train\n")
    assert max(map(len, shown.splitlines())) < 100


@pytest.mark.parametrize(
    ("typed", "line"),
    [
        (["x" * 101], r"project_name \('x+\.\.\.\) has 101 characters; the most is 100"),
        (["My Torch", "torch"], r"project_slug \('torch'\) is the name of .*; try 'torch-run'"),
        (["My Run", "../x"], r"project_slug \('\.\./x'\) must begin with a letter .*; try 'x'"),
        (["", "", "a\x07b"], r"description \('a\\x07b'\) holds a line break .*; type one line .*"),
        (["", "", "", "a\u2028b"], r"author_name \('a\\u2028b'\) holds a line break .*"),
        (["", "", "", "", "ada"], r"author_email \('ada'\) is no e-mail address; try name@.*"),
    ],
    ids=["name", "taken", "folder", "description", "author", "email"],
)
def test_a_bad_answer_is_told_in_one_line_before_the_next_question(
    typed: list[str], line: str, tmp_path: Path
) -> None:
    code, shown = converse(tmp_path, typed)
    *before, last = shown.splitlines()
    assert code == 1
    assert re.fullmatch(line, last), shown
    assert len(re.findall(r"\[\d/\d\]", "\n".join(before))) == len(typed)
    assert "Traceback" not in shown
    assert not (tmp_path / "out").exists()


def test_every_question_and_every_choice_has_words() -> None:
    assert list(PROMPTS) == QUESTIONS
    for question, words in PROMPTS.items():
        if isinstance(CHOICES[question], list):
            assert words.keys() == {"__prompt__", *CHOICES[question]}
            words = words["__prompt__"]
        assert words.endswith("?")
