"""Evaluate a trained model on one split: each sample counts once, on any number of processes.

Start it with `python -m`, `torchrun -m` or `accelerate launch -m`.
"""

from dataclasses import dataclass, replace
from typing import Literal

from .batches.evaluation import Evaluation, evaluate
from .batches.loaders import EvaluationLoader
from .checkpoint.data_info import as_json, changed_names, load_data_info
from .config import TrainConfig
from .data import Split, collate, describe, load_split, prepare
from .distributed.accelerator import make_accelerator
from .distributed.devices import find_devices
from .distributed.failures import failing_together, lost_peers_named
from .distributed.peers import PEERS
from .distributed.process_group import leave_process_group
from .distributed.program import read_launcher
from .exact.kernels import use_deterministic_kernels
from .model import make_model, score, summarize
from .run.agreement import check_agreement, check_weights
from .run.samples import check_samples
from .run.start import prepare_once
from .run.tables import print_table, result_rows
from .run.trained import TrainedRun
from .settings.command_line import parse_command_line
from .settings.errors import SettingError, check_printed, errors_in_one_line
from .settings.run_config import JOIN_SECONDS, Precision


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(TrainedRun):
    """Evaluate the trained model of a run folder on one split."""

    split: Split = "test"
    """Split to evaluate on, without augmentation."""

    placement: Literal["auto", "cpu"] = "auto"
    """auto uses an accelerator if there is one."""

    mixed_precision: Precision | None = None
    """Autocast dtype of the forward pass; None is that of the training run."""


def evaluate_run(settings: EvaluateConfig) -> Evaluation:
    """Return the results of the run's weights, on every rank.

    Raises:
        SettingError: weights are missing or corrupted, the data has changed, or launcher and
            machine do not fit.
    """
    # Devices
    trained, info, model = settings.load(TrainConfig, make_model)
    is_single = read_launcher() == 1
    config = replace(
        trained,
        # No gradients to reduce: one replica per process is enough, whatever the strategy was.
        placement="cpu" if settings.placement == "cpu" else "single" if is_single else "ddp",
        mixed_precision=settings.mixed_precision or trained.mixed_precision,
        compile=False,
        tracker="none",
    )
    devices = find_devices(config)
    use_deterministic_kernels(config, devices)

    # Data
    prepare_once(prepare, config)
    changed = changed_names(info, as_json(describe(config)))
    if changed:
        raise SettingError(
            f"the data has changed since training: describe in data.py returns other {changed}, so "
            "the splits may be others too; restore it"
        )
    dataset = load_split(settings.split, config, info)
    samples = check_samples(load_data_info(settings.run_dir), settings.split, dataset, collate)
    loader = EvaluationLoader(dataset, collate, config, devices)

    # Model
    accelerator = make_accelerator(devices, config.mixed_precision)
    check_agreement(config, info | samples, len(dataset))
    check_weights(model)
    model = accelerator.prepare_model(model, evaluation_mode=True)

    evaluation = evaluate(model, loader, score, summarize)
    if devices.is_main_process:
        rows = result_rows(settings.split.capitalize(), evaluation.results, len(dataset))
        processes = f"{devices.world_size} ({devices.strategy}, {devices.device.type})"
        rows |= {"Processes": processes, "Weights": f"{settings.weights_folder}/"}
        print_table("Result", rows)
    return evaluation


def main() -> None:
    """Evaluate as the command line says."""
    with failing_together(), errors_in_one_line():
        settings = parse_command_line(EvaluateConfig)
        with lost_peers_named():
            PEERS.join(JOIN_SECONDS)
            evaluate_run(settings)
            check_printed()
            leave_process_group()


if __name__ == "__main__":
    main()
