"""What stands at the end of a run: its numbers, its pictures, and a table that says where."""

from pathlib import Path
from typing import Any

from torch.utils.data import Dataset

from .figures import draw_curves, draw_predictions
from .metrics import Evaluation
from .plan import Plan
from .report import print_table, read_metrics, write_json


def write_results(
    run_dir: Path, plan: Plan, test_set: Dataset[Any], test: Evaluation, *, train_seconds: float
) -> None:
    """Write `summary.json`, `curves.png` and `predictions.png`, and print the result."""
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
        "device": devices.device_type,
        "world_size": devices.world_size,
        "data_parallel_size": devices.data_parallel_size,
        "global_batch_size": config.global_batch_size,
        "micro_batch_size": config.micro_batch_size,
        "gradient_accumulation_steps": plan.gradient_accumulation_steps,
        "mixed_precision": config.mixed_precision,
        "optimizer_steps": plan.total_steps,
        "epochs": plan.total_steps / plan.steps_per_epoch,
        **{f"test_{name}": value for name, value in test.means.items()},
        "test_samples": test.samples,
        "train_seconds": round(train_seconds, 3),
        "train_samples_per_second": plan.total_steps * config.global_batch_size / train_seconds,
    }
