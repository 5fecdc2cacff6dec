"""What stands at the end of a run: its numbers, its pictures, and a table that says where."""

from collections.abc import Mapping
from typing import Any

from torch.utils.data import Dataset

from .checkpoint import save_weights
from .figures import draw_curves, draw_predictions
from .metrics import Evaluation
from .plan import Plan
from .report import Report, read_metrics
from .run_folder import write_json
from .tables import print_table


def write_results(
    report: Report, state_dict: Mapping[str, Any], test_set: Dataset[Any], test: Evaluation
) -> None:
    """Write weights, `summary.json`, `curves.png` and `predictions.png`; print the result.

    On rank 0, which alone has a run folder; the others return at once.
    """
    run_dir, plan, train_seconds = report.run_dir, report.plan, report.train_seconds
    if run_dir is None:
        return
    save_weights(run_dir, state_dict)
    summary = summarize(plan, test, train_seconds=train_seconds)
    write_json(run_dir / "summary.json", summary)
    draw_curves(read_metrics(run_dir), run_dir / "curves.png")
    draw_predictions(test_set, test, run_dir / "predictions.png")
    right = round(test.means["accuracy"] * test.samples)
    speed = summary["train_samples_per_second"]
    print_table(
        "Result",
        {
            "Test accuracy": f"{test.means['accuracy']:.2%} ({right} of {test.samples} samples)",
            "Test loss": f"{test.means['loss']:.4f}",
            "Training": f"{train_seconds:.1f} s, {speed:,.0f} samples per second",
            "Run folder": f"{run_dir}/",
            "Pictures": "curves.png, predictions.png",
            "Weights": "model.safetensors",
        },
    )


def summarize(plan: Plan, test: Evaluation, *, train_seconds: float) -> dict[str, Any]:
    """Return the run in a few numbers, for `summary.json`."""
    config, devices = plan.config, plan.devices
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
        "optimizer_steps": plan.total_steps,
        "epochs": plan.total_steps / plan.steps_per_epoch,
        **{f"test_{name}": value for name, value in test.means.items()},
        "test_samples": test.samples,
        "train_seconds": round(train_seconds, 3),
        "train_samples_per_second": plan.total_steps * config.global_batch_size / train_seconds,
    }
