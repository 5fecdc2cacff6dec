"""The table of awkward answers, each alone and each with each."""

from pathlib import Path

import pytest

from ..test_answers import AWKWARD, EMAILS, MAX_LENGTHS, render_or_refuse


@pytest.mark.parametrize("name", MAX_LENGTHS)
@pytest.mark.parametrize("answer", AWKWARD, ids=ascii)
def test_an_awkward_answer_reads_back_alone(name: str, answer: str, default_project: Path) -> None:
    assert render_or_refuse({name: answer}, default_project) is None


@pytest.mark.parametrize("row", range(len(AWKWARD)))
def test_two_awkward_answers_read_back_beside_each_other(row: int, default_project: Path) -> None:
    """Over all rows, each pair of answers of the table stands once in each pair of places."""
    for column in range(len(AWKWARD)):
        places = [row, column, row + column]
        name, description, author = (AWKWARD[place % len(AWKWARD)] for place in places)
        answers = {
            "project_name": name,
            "description": description,
            "author_name": author,
            "author_email": EMAILS[(row + column) % len(EMAILS)],
        }
        assert render_or_refuse(answers, default_project) is None
