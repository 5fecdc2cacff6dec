"""The pictures of a run show what the run found."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal
from torch import Tensor

from my_run import figures, results
from my_run.data import CLASS_NAMES
from my_run.metrics import Evaluation

from .launching import read_metrics, run_train


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: saved.append(figure))
    return saved


def test_the_curves_show_every_line_of_the_log(single_run: Path, drawn: list[Figure]) -> None:
    lines = read_metrics(single_run)
    figures.draw_curves(lines, Path("curves.png"))
    curves = {
        (axes.get_title(loc="left"), curve.get_label()): curve.get_xydata()
        for axes in drawn[0].axes
        for curve in axes.lines
    }

    assert len(curves) == 6
    for (title, split), points in curves.items():
        name = title.lower().replace(" ", "_")
        expected = [(line["step"], line[name]) for line in lines if line["split"] == split]
        assert_array_equal(points, expected)


def test_a_run_draws_its_own_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(results, "draw_curves", lambda lines, file: drawn.extend(lines))
    run_train(tmp_path, "--max-steps", 2, "--tracker", "none", program="reference.single")

    assert [(line["split"], line["step"]) for line in drawn] == [
        *(("train", 1), ("train", 2), ("validation", 2), ("test", 2)),
    ]


def test_mistakes_come_first_and_counts_stand_where_the_axes_say(
    drawn: list[Figure],
) -> None:
    targets = [*range(10), 3, 3]
    predictions = [*range(10), 8, 8]
    dataset: Any = [(torch.zeros(1, 8, 8), torch.tensor(target)) for target in targets]
    per_sample: dict[str, Tensor] = {"prediction": torch.tensor(predictions)}
    result = Evaluation(len(targets), {}, per_sample)
    figures.draw_predictions(dataset, result, Path("predictions.png"))
    samples, confusion = drawn[0].subfigs
    [matrix] = confusion.axes
    counts = matrix.images[0].get_array()

    titles = [axes.get_title(loc="center") for axes in samples.axes if axes.images]
    assert titles == ["8, is 3", "8, is 3", *CLASS_NAMES]
    assert (matrix.get_ylabel(), matrix.get_xlabel()) == ("true", "predicted")
    assert counts is not None and (counts[3, 8], counts[8, 3]) == (2, 0)
