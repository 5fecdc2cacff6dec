"""The end of a run: `summary.json`, the final weights, the curves, and a table of the results."""

import contextlib
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from ..batches.evaluation import Evaluation
from ..batches.plan import Plan
from ..checkpoint.atomic import write_json
from ..checkpoint.progress import Progress
from ..checkpoint.weights import WEIGHTS_FILE, save_weights
from ..settings.errors import in_one_line
from .folder import PICTURES_FOLDER, SUMMARY_FILE, RunFolder
from .metrics_file import read_metrics
from .tables import print_table, result_rows

CURVES_FILE = "curves.png"
DrawPictures = Callable[[Path, Any, Evaluation, dict[str, Any]], None]


def summarize_run(
    plan: Plan,
    progress: Progress,
    test: Evaluation | None,
    *,
    best_name: str,
    stopped_by: str | None,
    checkpoint_seconds: float,
) -> dict[str, Any]:
    """Return the content of `summary.json`."""
    config, devices = plan.config, plan.devices
    results: dict[str, Any] = {}
    if test:
        results = {f"test_{name}": value for name, value in test.results.items()}
        results["test_samples"] = test.num_samples
    return {
        "placement": devices.strategy,
        "device": devices.device.type,
        "world_size": devices.world_size,
        "data_parallel_size": devices.data_parallel_size,
        "global_batch_size": config.global_batch_size,
        "micro_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "exact": devices.exact,
        "mixed_precision": config.mixed_precision,
        "optimizer_steps": progress.step,
        "epochs": progress.step / plan.steps_per_epoch,
        "skipped_steps": progress.skipped_steps,
        "stopped_by": stopped_by,
        "resumed_from": plan.start_step or None,
        "best_step": progress.best_step,
        f"best_validation_{best_name}": progress.best_value,
        "stopped_early": progress.has_ended(config.patience),
        **results,
        "train_seconds": round(progress.train_seconds, 3),
        "train_samples_per_second": progress.step
        * config.global_batch_size
        / progress.train_seconds,
        "checkpoint_seconds": round(checkpoint_seconds, 3),
    }


def write_results(run_dir: Path, summary: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
    """Write final weights, if there are any, and the summary."""
    if weights:
        save_weights(run_dir, weights)
    write_json(run_dir / SUMMARY_FILE, summary)


def draw_safely(
    draw_pictures: DrawPictures, run_folder: RunFolder, test_set: Any, test: Evaluation | None
) -> list[str]:
    """Draw the curves and the user's pictures; return in one line each why and where one failed."""
    folder = run_folder.path / PICTURES_FOLDER

    def draw_users() -> None:
        if test:
            folder.mkdir(exist_ok=True)
            draw_pictures(folder, test_set, test, run_folder.info)

    def draw_log() -> None:
        from .curves import draw_curves  # Not at the top: training need not wait for Matplotlib.

        draw_curves(read_metrics(run_folder.path), run_folder.path / CURVES_FILE)

    failures = []
    for name, draw in (("draw_curves", draw_log), ("draw_pictures", draw_users)):
        try:
            draw()
        except Exception as error:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            where = f"{frame.filename}, line {frame.lineno}"
            failures.append(f"{name} failed ({where}): {in_one_line(error)}")
    with contextlib.suppress(OSError):
        folder.rmdir()  # If nothing was drawn.
    return failures


def print_results(folder: RunFolder, summary: Mapping[str, Any], test: Evaluation | None) -> None:
    """Print the test results of a finished run, or the command that resumes a stopped one."""
    seconds, speed = summary["train_seconds"], summary["train_samples_per_second"]
    training = f"{seconds:.1f} s, {speed:,.0f} samples per second"
    if test is None:
        steps = summary["optimizer_steps"]
        print(f"Stopped by {summary['stopped_by']} after step {steps}, {training}.")
        print(folder.resume_command())
        return
    drawn = sorted((folder.path / PICTURES_FOLDER).glob("*"))
    pictures = [CURVES_FILE, *(f"{PICTURES_FOLDER}/{path.name}" for path in drawn)]
    print_table(
        "Result",
        {
            **result_rows("Test", test.results, test.num_samples),
            "Training": training,
            "Run folder": f"{folder.path}/",
            "Pictures": ", ".join(pictures),
            "Weights": WEIGHTS_FILE,
        },
    )
