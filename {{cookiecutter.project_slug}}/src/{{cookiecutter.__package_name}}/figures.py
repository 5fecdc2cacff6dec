"""The pictures of a run: its curves, and what the model makes of the test samples."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import confusion_matrix
from torch import Tensor
from torch.utils.data import Dataset

from .data import CLASS_NAMES, draw_input
from .metrics import Evaluation

STYLE: dict[Any, Any] = {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.25,
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "figure.dpi": 150,
}
TRAIN, VALIDATION, TEST = "#4c78a8", "#f58518", "#54a24b"
NUM_ROWS, NUM_COLUMNS = 5, 6


def draw_curves(metrics: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Save loss, accuracy and learning rate over the steps, from the lines of metrics.jsonl."""
    with rc_context(STYLE):
        figure = Figure(figsize=(13, 4), layout="constrained")
        loss, accuracy, rate = figure.subplots(1, 3, sharex=True)
        _draw_lines(loss, metrics, "loss")
        _draw_lines(accuracy, metrics, "accuracy")
        _draw_lines(rate, metrics, "learning_rate")
        loss.set(title="Loss", yscale="log")
        accuracy.set(title="Accuracy")
        accuracy.yaxis.set_major_formatter("{x:.0%}")
        rate.set(title="Learning rate")
        rate.yaxis.set_major_formatter("{x:g}")
        for axes in (loss, accuracy, rate):
            axes.set_xlabel("optimizer step")
        figure.savefig(file)


def _draw_lines(axes: Axes, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw one quantity of every split that has it; the test result is a single point."""
    colors = {"train": TRAIN, "validation": VALIDATION, "test": TEST}
    for split, color in colors.items():
        points = [
            # What was not finite is null in the file, and a gap in the curve.
            (line["step"], math.nan if line[name] is None else line[name])
            for line in metrics
            if line["split"] == split and name in line
        ]
        if not points:
            continue
        steps, values = zip(*points, strict=True)
        marker = {"train": None, "validation": "o", "test": "*"}[split]
        size = 12 if split == "test" else 4
        axes.plot(steps, values, marker=marker, markersize=size, color=color, label=split)
    if name != "learning_rate" and axes.lines:
        axes.legend(frameon=False)


def draw_predictions(dataset: Dataset[Any], result: Evaluation, file: Path) -> None:
    """Save some samples with their predictions, mistakes first, beside the confusion matrix."""
    targets = np.array([int(dataset[index][1]) for index in range(result.samples)])
    predictions = result.per_sample["prediction"].numpy().astype(int)
    mistakes = np.flatnonzero(predictions != targets)
    right = np.flatnonzero(predictions == targets)
    shown = [*mistakes, *right][: NUM_ROWS * NUM_COLUMNS]
    with rc_context({**STYLE, "axes.grid": False}):
        figure = Figure(figsize=(12, 5.6), layout="constrained")
        left, right_side = figure.subfigures(1, 2, width_ratios=(1.1, 1), squeeze=False)[0]
        left.suptitle(
            f"Test samples: {len(mistakes)} of {result.samples} wrong, in red", weight="bold"
        )
        grid = left.subplots(NUM_ROWS, NUM_COLUMNS).ravel()
        for axes in grid:
            axes.axis("off")
        for axes, index in zip(grid, shown, strict=False):
            _draw_prediction(axes, dataset[index][0], predictions[index], targets[index])
        _draw_confusion(right_side.subplots(), confusion_matrix(targets, predictions))
        figure.savefig(file)


def _draw_prediction(axes: Axes, inputs: Tensor, prediction: int, target: int) -> None:
    draw_input(axes, inputs)
    is_right = prediction == target
    title = CLASS_NAMES[prediction]
    if not is_right:
        title += f", is {CLASS_NAMES[target]}"
    axes.set_title(title, color="black" if is_right else "#c00000", loc="center", fontsize=10)


def _draw_confusion(axes: Axes, counts: np.ndarray[Any, Any]) -> None:
    axes.imshow(counts, cmap="Blues")
    ticks = range(len(CLASS_NAMES))
    axes.set(xticks=ticks, yticks=ticks, xticklabels=CLASS_NAMES, yticklabels=CLASS_NAMES)
    axes.set(title="Confusion matrix", xlabel="predicted", ylabel="true")
    for (row, column), count in np.ndenumerate(counts):
        if count:
            color = "white" if count > counts.max() / 2 else "black"
            axes.text(column, row, str(count), ha="center", va="center", color=color, fontsize=9)
