"""The pictures of a finished run: replace this file by your own, or leave `draw_pictures` empty."""

from pathlib import Path
from typing import Any

from .batches.evaluation import Evaluation
from .data import DataInfo

PREDICTIONS_FILE = "predictions.png"
MOST_NAMES = 20  # Of classes: more would not be legible.


def draw_pictures(folder: Path, test_set: Any, test: Evaluation, info: DataInfo) -> None:
    """Save ROC curves beside the confusion matrix; or true numbers and residuals, as PNG."""
    from matplotlib.figure import Figure  # Not at the top: training need not wait for it.
    from sklearn import metrics

    scores = {name: values.numpy() for name, values in test.scores.items()}
    figure = Figure(figsize=(12, 5.6), dpi=150, layout="constrained")
    figure.suptitle(f"{test.num_samples} test samples", weight="bold")
    left, right = figure.subplots(1, 2)
    if info["target"]:
        mean, std = info["target"]["mean"], info["target"]["std"]
        true, predicted = (scores[name] * std + mean for name in ("target", "prediction"))
        for kind, axes in (("actual_vs_predicted", left), ("residual_vs_predicted", right)):
            metrics.PredictionErrorDisplay.from_predictions(true, predicted, kind=kind, ax=axes)
    else:
        targets, predicted = scores["target"], scores["probabilities"].argmax(axis=1)
        short = [name if len(name) <= 20 else f"{name[:19]}…" for name in info["classes"]]
        is_legible = len(short) <= MOST_NAMES
        names = [name.replace("$", r"\$") for name in short]  # No formulas.
        for index in [1] if len(names) == 2 else range(len(names)):
            if 0 < (targets == index).mean() < 1:
                curve = targets == index, scores["probabilities"][:, index]
                metrics.RocCurveDisplay.from_predictions(*curve, name=names[index], ax=left)
        left.set(xlabel="False positive rate", ylabel="True positive rate")
        if left.lines:
            left.legend(loc="lower right", fontsize="small").set_visible(is_legible)
        counts = metrics.confusion_matrix(targets, predicted, labels=range(len(names)))
        matrix = metrics.ConfusionMatrixDisplay(counts, display_labels=names)
        rotation = "horizontal" if len(names) * max(map(len, names)) <= 40 else "vertical"
        style = {"include_values": is_legible, "xticks_rotation": rotation, "cmap": "Blues"}
        matrix.plot(**style, colorbar=False, ax=right)
    figure.savefig(folder / PREDICTIONS_FILE)
