"""Accelerate, set up as the rest of the project counts on, and checked to be so."""

from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin, GradientAccumulationPlugin
from torch import Tensor, nn

from .config import SettingError, TrainConfig
from .devices import Devices
from .report import Track

DISTRIBUTED_TYPES = {
    "single": ("NO",),
    "data_parallel": ("NO",),
    "ddp": ("MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU"),
    "fsdp2": ("FSDP",),
}


def make_accelerator(
    config: TrainConfig, devices: Devices, accumulation_steps: int = 1
) -> Accelerator:
    """Return an `Accelerator` for `devices`; starts the process group where there are several.

    Raises:
        SettingError: Accelerate set up something else than was asked for.
    """
    is_data_parallel = devices.strategy == "data_parallel"
    sharding = (
        FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy="transformer_based_wrap")
        if devices.strategy == "fsdp2"
        else None
    )
    accelerator = Accelerator(
        cpu=devices.device_type == "cpu",
        # DataParallel's threads do not inherit autocast: `AutocastForward` does it inside.
        mixed_precision="no" if is_data_parallel else config.mixed_precision,
        # sync_with_dataloader=False: this project's loader is not Accelerate's.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=accumulation_steps, sync_with_dataloader=False
        ),
        fsdp_plugin=sharding,
        log_with=None if config.tracker == "none" else config.tracker,
        project_dir="runs",
    )
    kind = accelerator.distributed_type.value
    if (
        accelerator.num_processes != devices.world_size
        or kind not in (DISTRIBUTED_TYPES[devices.strategy])
    ):
        raise SettingError(
            f"Accelerate set up {accelerator.num_processes} process(es) of type {kind} where "
            f"{devices.world_size} of {devices.strategy} were asked for; type: torchrun "
            f"--nproc-per-node {devices.world_size} -m PROGRAM --placement {devices.strategy}"
        )
    return accelerator


class AutocastForward(nn.Module):
    """Autocast inside a replica of DataParallel, whose threads start without the caller's."""

    def __init__(self, module: nn.Module, mixed_precision: str) -> None:
        super().__init__()
        self.module = module
        self.enabled = mixed_precision != "no"

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            outputs: Tensor = self.module(inputs)
        return outputs.float() if self.enabled else outputs


def check_tracker(config: TrainConfig) -> None:
    """Look whether the tracker's package is there: Accelerate would quietly log nothing.

    Raises:
        SettingError: it is not installed.
    """
    if config.tracker != "none" and find_spec(config.tracker) is None:
        raise SettingError(
            f"tracker {config.tracker} is not installed; type: python -m pip install "
            f"{config.tracker}, or try --tracker none"
        )


def start_tracker(accelerator: Accelerator, config: TrainConfig, run_dir: Path | None) -> Track:
    """Start the tracker of `config` on rank 0, its local files in `run_dir`; return its log."""
    accelerator.project_configuration.logging_dir = str(run_dir)
    settings = {name: value for name, value in config.saved().items() if value is not None}
    project = (__package__ or "run").partition(".")[0]
    accelerator.init_trackers(project, config=settings)
    return lambda values, step: accelerator.log(values, step=step)
