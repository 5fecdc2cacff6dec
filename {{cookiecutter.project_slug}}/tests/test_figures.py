"""The plots show the logged metrics."""

import math
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal

from my_run.run import curves
from my_run.run.tables import shown

from .launching import read_metrics, run_train


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: saved.append(figure))
    return saved


def test_the_curves_show_every_line_of_the_log(single_run: Path, drawn: list[Figure]) -> None:
    lines = read_metrics(single_run)
    curves.draw_curves(lines, Path("curves.png"))
    lines_drawn = {
        (axes.get_title(loc="left"), curve.get_label()): curve.get_xydata()
        for axes in drawn[0].axes
        for curve in axes.lines
    }

    assert len(lines_drawn) == 6
    for (title, split), points in lines_drawn.items():
        name = title.lower().replace(" ", "_")
        expected = [(line["step"], line[name]) for line in lines if line["split"] == split]
        assert_array_equal(points, expected)


def test_a_run_draws_its_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(curves, "draw_curves", lambda lines, file: drawn.extend(lines))
    run_train(tmp_path, "--max-steps", 2, "--tracker", "none", program="reference.single")

    assert [(line["split"], line["step"]) for line in drawn] == [
        *(("train", 1), ("train", 2), ("validation", 2), ("test", 2)),
    ]


def test_a_job_without_a_loss_in_its_results_has_curves(drawn: list[Figure]) -> None:
    lines = [
        {"split": "train", "step": 1, "loss": 1.0, "learning_rate": 0.1},
        {"split": "validation", "step": 1, "recall": 0.5},
    ]
    curves.draw_curves(lines, Path("curves.png"))

    assert [axes.get_title(loc="left") for axes in drawn[0].axes] == [
        *("Loss", "Recall", "Learning rate")
    ]


def test_many_metrics_are_drawn_in_rows_and_none_without_a_number(drawn: list[Figure]) -> None:
    names = [f"class {index}" for index in range(6)]
    results = {**dict.fromkeys(names, 0.5), "undefined": None}
    lines: list[dict[str, Any]] = [{"split": "train", "step": 3, "loss": 1.0, "learning_rate": 0.1}]
    curves.draw_curves([*lines, {"split": "test", "step": 3, **results}], Path("curves.png"))

    titles = [axes.get_title(loc="left") for axes in drawn[0].axes]
    assert titles == ["Loss", *map(str.capitalize, names), "Learning rate"]
    grid = drawn[0].axes[0].get_gridspec()
    assert grid is not None and grid.get_geometry() == (2, 4)
    assert {axes.get_xlim() for axes in drawn[0].axes} == {(0, 3 * 1.05)}


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0.0000"), (0.25, "0.2500"), (-1.25e-7, "-1.25e-07"), (1e6, "1e+06"), (math.nan, "nan")],
)
def test_a_result_is_shown_with_the_digits_that_it_has(value: float, text: str) -> None:
    assert shown(value) == text


def test_a_negative_loss_is_drawn_on_a_linear_axis(drawn: list[Figure]) -> None:
    lines = [{"split": "train", "step": step, "loss": 1.0 - step} for step in (1, 2, 3)]
    curves.draw_curves(lines, Path("curves.png"))

    assert drawn[0].axes[0].get_yscale() == "linear"
