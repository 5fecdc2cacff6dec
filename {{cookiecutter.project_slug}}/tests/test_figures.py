"""The plots show the logged metrics and the test predictions."""

from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib.figure import Figure
from numpy.testing import assert_array_equal

from my_run import pictures
from my_run.batches.evaluation import Evaluation
from my_run.config import TrainConfig
from my_run.data import Digits, describe
from my_run.run import curves, summary

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
    monkeypatch.setattr(summary, "draw_curves", lambda lines, file: drawn.extend(lines))
    run_train(tmp_path, "--max-steps", 2, "--tracker", "none", program="reference.single")

    assert [(line["split"], line["step"]) for line in drawn] == [
        *(("train", 1), ("train", 2), ("validation", 2), ("test", 2)),
    ]


def test_mistakes_come_first_and_counts_stand_where_the_axes_say(
    drawn: list[Figure],
) -> None:
    targets = [*range(10), 3, 3]
    predictions = [*range(10), 8, 8]
    images = torch.zeros(len(targets), 1, 8, 8)
    test_set = Digits(images, torch.tensor(targets), augmented=False)
    test = Evaluation(len(targets), {}, {"prediction": torch.tensor(predictions)})
    info = describe(TrainConfig())
    pictures.draw_pictures(Path("."), test_set, test, info)
    samples, confusion = drawn[0].subfigs
    [matrix] = confusion.axes
    counts = matrix.images[0].get_array()

    titles = [axes.get_title(loc="center") for axes in samples.axes if axes.images]
    assert titles == ["8, is 3", "8, is 3", *info["classes"]]
    assert (matrix.get_ylabel(), matrix.get_xlabel()) == ("True label", "Predicted label")
    assert counts is not None and (counts[3, 8], counts[8, 3]) == (2, 0)


def test_a_negative_loss_is_drawn_on_a_linear_axis(drawn: list[Figure]) -> None:
    lines = [{"split": "train", "step": step, "loss": 1.0 - step} for step in (1, 2, 3)]
    curves.draw_curves(lines, Path("curves.png"))

    assert drawn[0].axes[0].get_yscale() == "linear"
