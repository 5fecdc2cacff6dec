"""Test a trained model: loss and metrics on one split, each sample counted once.

Start it as a module, on one process or, by `torchrun -m` or `accelerate launch -m`, on several;
the numbers do not depend on how many.
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from .accelerated import make_accelerator
from .command_line import parse_command_line
from .config import CONFIG_FILE, Precision, load_config
from .data import Split, load_split
from .devices import find_devices
from .errors import errors_in_one_line
from .exact import fix_kernels
from .loaders import make_eval_loader
from .metrics import Evaluation, evaluate
from .model import Classifier
from .resume import weights_folder
from .tables import print_table
from .weights import load_weights


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig:
    """Measure the trained model of a run folder on one of the splits."""

    run_dir: Path
    """Folder of a run: its config.yaml and its weights are read."""

    checkpoint: str | None = None
    """Weights to take: None the final ones; newest, best in validation, or step_00000038 and so."""

    split: Split = "test"
    """Samples to measure on; none is augmented."""

    placement: Literal["auto", "cpu"] = "auto"
    """Devices: auto takes an accelerator where there is one."""

    mixed_precision: Precision | None = None
    """Type of the forward pass; None takes that of the training run."""


def evaluate_run(settings: EvaluateConfig) -> Evaluation:
    """Return the results of the run's weights, on every rank.

    Raises:
        SettingError: the folder holds no such weights, or the machine does not fit.
    """
    # Devices
    trained = load_config(settings.run_dir / CONFIG_FILE)
    is_single = int(os.environ.get("WORLD_SIZE", 1)) == 1
    config = replace(
        trained,
        # Replicas need no gradients from each other, so one process a device is all there is.
        placement="cpu" if settings.placement == "cpu" else "single" if is_single else "ddp",
        mixed_precision=settings.mixed_precision or trained.mixed_precision,
        compile=False,
        tracker="none",
    )
    devices = find_devices(config)
    fix_kernels(devices)
    accelerator = make_accelerator(config, devices)

    # Data
    dataset = load_split(settings.split, augmented=False)
    loader = make_eval_loader(dataset, config, devices)

    # Model
    model = Classifier()
    weights = weights_folder(settings.run_dir, settings.checkpoint)
    load_weights(weights, model)
    model = accelerator.prepare_model(model, evaluation_mode=True)

    result = evaluate(model, loader, accelerator.device)
    if devices.rank == 0:
        rows = {name.capitalize(): f"{value:.4f}" for name, value in result.means.items()}
        title = f"{settings.split.capitalize()} split, {result.samples} samples"
        processes = f"{devices.world_size} ({devices.strategy}, {devices.device.type})"
        print_table(title, {**rows, "Processes": processes, "Weights": f"{weights}/"})
    accelerator.end_training()
    return result


def main() -> None:
    """Read the command line and evaluate."""
    with errors_in_one_line():
        evaluate_run(parse_command_line(EvaluateConfig))


if __name__ == "__main__":
    main()
