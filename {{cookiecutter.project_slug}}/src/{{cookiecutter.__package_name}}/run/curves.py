"""The curves of a run: a panel for each metric of an evaluation, and one for the learning rate."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogFormatter

from .metrics_file import OWN_NAMES

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
MOST_COLUMNS = 4
COLORS = {"train": "#4c78a8", "validation": "#f58518", "test": "#54a24b"}


def draw_curves(metrics: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Save the curves of a log, the lines of metrics.jsonl, as a picture."""
    evaluated = [line for line in metrics if line["split"] != "train"]
    names = dict.fromkeys(
        name
        for line in evaluated
        for name, value in line.items()
        if name not in (*OWN_NAMES, "loss") and value is not None
    )
    panels = ["loss", *names, "learning_rate"]
    num_columns = min(len(panels), MOST_COLUMNS)
    num_rows = math.ceil(len(panels) / num_columns)
    last_step = max((line["step"] for line in metrics), default=1)
    with rc_context(STYLE):
        figure = Figure(figsize=(13 / 3 * num_columns, 4 * num_rows), layout="constrained")
        for position, name in enumerate(panels, start=1):
            axes = figure.add_subplot(num_rows, num_columns, position)
            _draw_metric(axes, metrics, name)
            axes.set_xlim(0, 1.05 * last_step)
        figure.savefig(file)


class _PlainNumbers(LogFormatter):
    """Writes 0.1, not 1e-01."""

    def __call__(self, x: float, pos: int | None = None) -> str:
        return f"{x:g}" if super().__call__(x, pos) else ""


def _draw_metric(axes: Axes, metrics: Sequence[Mapping[str, Any]], name: str) -> None:
    """Draw one metric of every split that has it; the test result is a single point."""
    for split, color in COLORS.items():
        points = [
            # NaN and inf are null in the file, and a gap in the curve.
            (line["step"], math.nan if line[name] is None else line[name])
            for line in metrics
            if line["split"] == split and name in line
        ]
        if points:
            marker = {"train": None, "validation": "o", "test": "*"}[split]
            size = 12 if split == "test" else 4
            steps, values = zip(*points, strict=True)
            axes.plot(steps, values, marker=marker, markersize=size, color=color, label=split)
    # A metric's name is no formula.
    axes.set_title(name.replace("_", " ").capitalize(), parse_math=False)
    axes.set_xlabel("optimizer step")
    if name == "loss" and all((line.get("loss") or 1) > 0 for line in metrics):
        axes.set_yscale("log")
        # Where the range is narrow, not of powers of ten alone.
        axes.yaxis.set_major_formatter(_PlainNumbers(labelOnlyBase=False))
        axes.yaxis.set_minor_formatter(
            _PlainNumbers(labelOnlyBase=False, minor_thresholds=(2, 0.5))
        )
    if name == "learning_rate":
        axes.yaxis.set_major_formatter("{x:g}")
    elif axes.lines:
        axes.legend(frameon=False)
