"""The pictures of a finished run: replace this file by your own, or leave `draw_pictures` empty."""

from pathlib import Path

import numpy as np

from .batches.evaluation import Evaluation
from .data import DataInfo, Images

PREDICTIONS_FILE = "predictions.png"
NUM_ROWS, NUM_COLUMNS = 5, 6
# Of the classes in a confusion matrix: more numbers would not be legible.
MOST_NUMBERS = 20


def draw_pictures(folder: Path, test_set: Images, test: Evaluation, info: DataInfo) -> None:
    """Save samples with their predictions, mistakes first, beside the confusion matrix, as PNG."""
    from matplotlib.figure import Figure  # Not at the top: training need not wait for it.
    from sklearn.metrics import ConfusionMatrixDisplay

    short = [name if len(name) <= 12 else f"{name[:11]}…" for name in info["classes"]]
    names = [name.replace("$", r"\$") for name in short]  # No formulas.
    targets, predictions = test_set.targets.numpy(), test.scores["prediction"].numpy()
    mistakes = np.flatnonzero(predictions != targets)
    shown = [*mistakes, *np.flatnonzero(predictions == targets)][: NUM_ROWS * NUM_COLUMNS]
    figure = Figure(figsize=(12, 5.6), dpi=150, layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1.1, 1), squeeze=False)[0]
    left.suptitle(f"Test: {len(mistakes)} of {test.num_samples} wrong, in red", weight="bold")
    grid = left.subplots(NUM_ROWS, NUM_COLUMNS).ravel()
    for axes in grid:
        axes.axis("off")
    for axes, index in zip(grid, shown, strict=False):
        title, color = names[predictions[index]], "black"
        if predictions[index] != targets[index]:
            title, color = f"{title}, is {names[targets[index]]}", "#c00000"
        axes.set_title(title, color=color, fontsize=10)
        # A grey image has a white background.
        axes.imshow(test_set[index][0].permute(1, 2, 0).numpy(), cmap="gray_r", vmin=0, vmax=1)
    axes = right.subplots()
    ConfusionMatrixDisplay.from_predictions(
        targets,
        predictions,
        labels=range(len(names)),
        display_labels=names,
        cmap="Blues",
        colorbar=False,
        include_values=len(names) <= MOST_NUMBERS,
        xticks_rotation="horizontal" if max(map(len, names)) <= 2 else "vertical",
        ax=axes,
    )
    axes.set_title("Confusion matrix", loc="left", weight="bold")
    figure.savefig(folder / PREDICTIONS_FILE)
