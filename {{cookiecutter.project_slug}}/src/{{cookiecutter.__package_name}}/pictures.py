"""The pictures of a finished run: replace this file by your own, or leave `draw_pictures` empty."""

from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import ConfusionMatrixDisplay
from torch import Tensor

from .batches.evaluation import Evaluation
from .data import DataInfo, Digits

PREDICTIONS_FILE = "predictions.png"
NUM_ROWS, NUM_COLUMNS = 5, 6


def draw_pictures(folder: Path, test_set: Digits, test: Evaluation, info: DataInfo) -> None:
    """Save samples with their predictions, mistakes first, beside the confusion matrix.

    Args:
        folder: Where to save pictures, as PNG.
        test_set: The samples.
        test: Their scores, in the same order; `prediction` is the class.
        info: Names the classes.
    """
    names = info["classes"]
    targets = test_set.targets.numpy()
    predictions = test.scores["prediction"].numpy()
    mistakes = np.flatnonzero(predictions != targets)
    shown = [*mistakes, *np.flatnonzero(predictions == targets)][: NUM_ROWS * NUM_COLUMNS]
    figure = Figure(figsize=(12, 5.6), dpi=150, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1), squeeze=False)[0]
    left.suptitle(
        f"Test samples: {len(mistakes)} of {test.num_samples} wrong, in red", weight="bold"
    )
    grid = left.subplots(NUM_ROWS, NUM_COLUMNS).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, index in zip(grid, shown, strict=False):
        title = names[predictions[index]]
        is_right = predictions[index] == targets[index]
        title += "" if is_right else f", is {names[targets[index]]}"
        _draw_image(axes, test_set[index][0], title, color="black" if is_right else "#c00000")
    axes = right.subplots()
    ConfusionMatrixDisplay.from_predictions(
        targets,
        predictions,
        labels=range(len(names)),
        display_labels=names,
        cmap="Blues",
        colorbar=False,
        ax=axes,
    )
    axes.set_title("Confusion matrix", loc="left", weight="bold")
    figure.savefig(folder / PREDICTIONS_FILE)


def _draw_image(axes: Axes, image: Tensor, title: str, *, color: str) -> None:
    """Draw one image, (1, height, width)."""
    axes.imshow(image[0].numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes.set_title(title, color=color, fontsize=10)
