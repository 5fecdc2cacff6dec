from pathlib import Path

from my_run.batches.evaluation import Evaluation

from .data import NUM_CLASSES, DataInfo, Points

PICTURE = "confusion.png"


def draw_pictures(folder: Path, test_set: Points, test: Evaluation, info: DataInfo) -> None:
    """Save the confusion matrix, a pixel for each pair of classes."""
    from matplotlib.image import imsave  # Not at the top: training need not wait for it.

    pairs = NUM_CLASSES * test_set.targets + test.scores["prediction"]
    counts = pairs.bincount(minlength=NUM_CLASSES**2).view(NUM_CLASSES, NUM_CLASSES)
    imsave(folder / PICTURE, counts.numpy())
