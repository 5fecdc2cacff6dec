"""The pictures of a finished run: replace this file by your own, or leave `draw_pictures` empty."""

import math
from pathlib import Path
from typing import Any

import numpy as np

from .batches.evaluation import Evaluation
from .data import Blocks, DataInfo, to_text

PREDICTIONS_FILE = "predictions.png"
NUM_SHOWN, NUM_LINES, LINE_LENGTH = 5, 2, 64
# In nats: log(256) is a guess among all bytes.
HIGHEST_LOSS = 5.5


def draw_pictures(folder: Path, test_set: Blocks, test: Evaluation, info: DataInfo) -> None:
    """Save the loss by length of context, beside test samples colored by their loss, as PNG."""
    from matplotlib.figure import Figure  # Not at the top: training need not wait for it.

    losses = test.scores["token_losses"].float()
    figure = Figure(figsize=(13, 5.6), dpi=150, layout="constrained")
    left, right = figure.subplots(1, 2, width_ratios=(1, 1.6), squeeze=False)[0]
    means = losses.mean(dim=0).numpy()
    left.plot(range(1, len(means) + 1), means, color="#4c78a8")
    left.set_title("Test loss by length of context", loc="left", weight="bold")
    left.set(xlabel="bytes of context", ylabel="nats per byte", ylim=(0, None))
    left.grid(alpha=0.25)
    shown = np.linspace(0, len(test_set) - 1, num=min(NUM_SHOWN, len(test_set)), dtype=int)
    right.axis("off")
    right.set_title("Test samples; darker bytes have a higher loss", loc="left", weight="bold")
    for row, index in enumerate(shown.tolist()):
        tokens, token_losses = test_set[index].tolist()[1:], losses[index].tolist()
        for line in range(min(NUM_LINES, math.ceil(len(tokens) / LINE_LENGTH))):
            part = slice(line * LINE_LENGTH, (line + 1) * LINE_LENGTH)
            y = 1 - (row * (NUM_LINES + 1) + line + 1) / (NUM_SHOWN * (NUM_LINES + 1))
            _draw_line(right, tokens[part], token_losses[part], y=y)
    figure.savefig(folder / PREDICTIONS_FILE)


def _draw_line(axes: Any, tokens: list[int], losses: list[float], *, y: float) -> None:
    """Draw bytes in one line, each on a background that shows its loss."""
    for column, (token, loss) in enumerate(zip(tokens, losses, strict=True)):
        sign, opacity = to_text([token]), min(loss / HIGHEST_LOSS, 1.0)
        axes.text(
            column / LINE_LENGTH,
            y,
            sign if sign.isprintable() else " ",
            family="monospace",
            fontsize=9,
            parse_math=False,
            transform=axes.transAxes,
            bbox={"facecolor": (0.96, 0.52, 0.09, opacity), "linewidth": 0, "pad": 1},
        )
