"""What stands at the end of a run: its numbers, its pictures, and a table that says where."""

from typing import Any

from torch.utils.data import Dataset

from .figures import draw_curves, draw_predictions
from .files import write_json
from .metrics_file import read_metrics
from .report import Report
from .resume import how_to_go_on
from .run_folder import PREDICTIONS_FILE, SUMMARY_FILE
from .tables import print_table
from .training_state import TrainingState
from .weights import WEIGHTS_FILE, save_weights

CURVES_FILE = "curves.png"


def write_results(
    report: Report, state: TrainingState, test_set: Dataset[Any], stopped_by: str | None
) -> None:
    """Write `summary.json` and pictures, and the weights of a run that came to its end; print it.

    Every rank calls it; rank 0, which alone has a run folder, writes.
    """
    weights = {} if report.test is None else state.weights()
    run_dir = report.run_dir
    if run_dir is None:
        return
    with report.explained():
        # The pictures last: they are drawn by code that a user replaces.
        if report.test is not None:
            save_weights(run_dir, weights)
        summary = summarize(report, stopped_by)
        write_json(run_dir / SUMMARY_FILE, summary)
        draw_curves(read_metrics(run_dir), run_dir / CURVES_FILE)
        if report.test is not None:
            draw_predictions(test_set, report.test, run_dir / PREDICTIONS_FILE)
    report.run_folder.release()
    seconds, speed = report.train_seconds, summary["train_samples_per_second"]
    training = f"{seconds:.1f} s, {speed:,.0f} samples per second"
    if report.test is None:
        print(f"Stopped by {stopped_by} after step {report.steps_done}, {training}.")
        print(how_to_go_on(run_dir, report.plan.devices))
        return
    means, samples = report.test.means, report.test.samples
    others = {name: value for name, value in means.items() if name != "accuracy"}
    results = {f"Test {name}": f"{value:.4f}" for name, value in others.items()}
    if "accuracy" in means:
        right = round(means["accuracy"] * samples)
        accuracy = f"{means['accuracy']:.2%} ({right} of {samples} samples)"
        results = {"Test accuracy": accuracy, **results}
    print_table(
        "Result",
        {
            **results,
            "Training": training,
            "Run folder": f"{run_dir}/",
            "Pictures": f"{CURVES_FILE}, {PREDICTIONS_FILE}",
            "Weights": WEIGHTS_FILE,
        },
    )


def summarize(report: Report, stopped_by: str | None) -> dict[str, Any]:
    """Return the run in a few numbers, for `summary.json`."""
    plan, progress = report.plan, report.progress
    config, devices = plan.config, plan.devices
    steps = report.steps_done
    test: dict[str, Any] = {}
    if report.test:
        test = {f"test_{name}": value for name, value in report.test.means.items()}
        test["test_samples"] = report.test.samples
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
        "optimizer_steps": steps,
        "epochs": steps / plan.steps_per_epoch,
        "skipped_steps": report.finite.skipped_steps,
        "stopped_by": stopped_by,
        "resumed_from": plan.start.step or None,
        "best_step": progress.best_step,
        "best_validation_loss": progress.best_loss,
        **test,
        "train_seconds": round(report.train_seconds, 3),
        "train_samples_per_second": steps * config.global_batch_size / report.train_seconds,
        "checkpoint_seconds": round(report.checkpoint_seconds, 3),
    }
