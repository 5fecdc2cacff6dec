"""The results as Markdown tables, and as a picture."""

import statistics
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.gpu.report import table

from .rows import BY_HAND, CPU_JOBS, GPU_JOBS, Job, Row

HEADINGS = ("loop", "step, 5th percentile, ms", "median", "ratio", "to the loop by hand")
TIMES = ("first step, s", "whole, s")
CPU_HEADINGS = ("memory, MB", "without mapped files", "test loss")
GPU_HEADINGS = ("samples/s", "MFU", "GPU idle", "GPU memory, GB", "test loss")
Runs = list[dict[str, Any]]


def markdown(results: Mapping[str, Any]) -> str:
    """Return a table for each job, with hardware and versions."""
    machine, parts = results["machine"], [results["machine"]["text"]]
    headings = HEADINGS + TIMES + (GPU_HEADINGS if machine["is_gpu"] else CPU_HEADINGS)
    for name, measured in results["jobs"].items():
        job = jobs_of(machine)[name]
        lines = [
            tuple(cells_of(job, row, measured, machine))
            for row in job.rows
            if measured.get(row.name)
        ]
        parts += [f"### {job.title}", table(headings, lines)]
    return "\n\n".join(parts) + "\n"


def jobs_of(machine: Mapping[str, Any]) -> dict[str, Job]:
    """Return the jobs of a GPU or of a CPU."""
    return GPU_JOBS if machine["is_gpu"] else CPU_JOBS


def cells_of(
    job: Job, row: Row, measured: Mapping[str, Runs], machine: Mapping[str, Any]
) -> list[str]:
    """Return the cells of a row: medians over its runs."""
    runs = measured[row.name]
    step = statistics.median(map(fifth_percentile, runs))
    shown = [
        "1" if against == row.name else ratio_text(ratios(row, against, measured))
        for against in (row.against, BY_HAND)
    ]
    cells = [
        row.name,
        f"{step:.2f}",
        f"{statistics.median(statistics.median(run['step_ms']) for run in runs):.2f}",
        *shown,
        f"{median_of(runs, 'first_step_seconds'):.1f}",
        f"{median_of(runs, 'seconds'):.1f}",
    ]
    loss = f"{median_of(runs, 'test_loss'):.3f}"
    if not machine["is_gpu"]:
        memory = [f"{median_of(runs, of) / 1e6:,.0f}" for of in ("process_bytes", "own_bytes")]
        return [*cells, *memory, loss]
    samples = batch_size_of(job, row) / step * 1000
    # Known from the project's own rows; the same for all.
    known = [run["peak_seconds_per_sample"] for each in measured.values() for run in each]
    seconds, kernels = next(filter(None, known), None), median_of(runs, "kernel_ms")
    return [
        *cells,
        f"{samples:,.0f}",
        f"{samples * seconds:.1%}" if seconds else "",
        f"{max(0.0, 1 - kernels / step):.1%}",
        f"{median_of(runs, 'gpu_bytes') / 1e9:.1f}",
        loss,
    ]


def ratios(row: Row, against: str, measured: Mapping[str, Runs]) -> list[float]:
    """Return the 5th percentile of a row over that of another one, for each round."""
    pairs = zip(measured[row.name], measured.get(against, []), strict=False)
    return [fifth_percentile(run) / fifth_percentile(other) for run, other in pairs]


def ratio_text(values: list[float]) -> str:
    """Return the median and the range of ratios."""
    if not values:
        return ""
    text = f"{statistics.median(values):.2f}"
    return text if len(values) == 1 else f"{text} ({min(values):.2f} to {max(values):.2f})"


def fifth_percentile(run: Mapping[str, Any]) -> float:
    """Return the 5th percentile of the step times, without the first steps; in ms."""
    times = run["step_ms"][len(run["step_ms"]) // 10 :]
    several = times * 2 if len(times) == 1 else times
    return float(statistics.quantiles(several, n=20, method="inclusive")[0])


def median_of(runs: Runs, name: str) -> float:
    """Return the median of a number over runs."""
    return float(statistics.median(run[name] for run in runs))


def batch_size_of(job: Job, row: Row) -> int:
    """Return the samples of a step."""
    flags = [*job.flags, *row.flags]
    last = len(flags) - 1 - flags[::-1].index("--global-batch-size")
    return int(flags[last + 1])


def draw(results: Mapping[str, Any], file: Path) -> None:
    """Draw the ratios of each job that has a loop by hand, as bars."""
    from matplotlib.figure import Figure

    jobs = {
        jobs_of(results["machine"])[name]: measured
        for name, measured in results["jobs"].items()
        if measured.get(BY_HAND)
    }
    if not jobs:
        return
    heights = [len(measured) for measured in jobs.values()]
    figure = Figure(figsize=(9, 1 + 0.27 * sum(heights) + 0.6 * len(jobs)), layout="constrained")
    for axes, (job, measured) in zip(
        figure.subplots(len(jobs), 1, height_ratios=heights, squeeze=False)[:, 0],
        jobs.items(),
        strict=True,
    ):
        rows = [row for row in job.rows if measured.get(row.name)][::-1]
        values = [statistics.median(ratios(row, BY_HAND, measured)) for row in rows]
        colors = ["#c44e52" if "`" in row.name else "#8c9bb0" for row in rows]
        bars = axes.barh([row.name.replace("`", "") for row in rows], values, color=colors)
        axes.axvline(1, color="black", linewidth=0.8)
        labels = axes.bar_label(bars, [f"{value:.2f}" for value in values], padding=3)
        for label in labels:
            label.set_bbox({"facecolor": "white", "linewidth": 0, "pad": 0.5})
        axes.set_title(job.title, loc="left")
        axes.spines[["top", "right"]].set_visible(False)
        axes.margins(x=0.1)
    axes.set_xlabel("time of a step, over that of the loop by hand (red: the template's programs)")
    figure.savefig(file, dpi=150)
