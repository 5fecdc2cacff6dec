"""Accelerate, set up as the rest of the project counts on, and checked to be so."""

import os
from datetime import timedelta

import torch
from accelerate import Accelerator
from accelerate.utils import (
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch import Tensor, nn

from .config import PROCESS_GROUP_TIMEOUT_SECONDS, TrainConfig
from .devices import Devices, program_name
from .errors import SettingError

DISTRIBUTED_TYPES = {
    "single": ("NO",),
    "data_parallel": ("NO",),
    "ddp": ("MULTI_CPU", "MULTI_GPU", "MULTI_XPU", "MULTI_NPU", "MULTI_MLU", "MULTI_HPU"),
    "fsdp2": ("FSDP",),
}


def check_launcher(config: TrainConfig, devices: Devices) -> None:
    """Compare what `accelerate launch` was told with the settings, and with what it can do.

    Raises:
        SettingError: one of them would quietly not happen.
    """
    if devices.strategy == "fsdp2" and devices.device.type == "cpu":
        # Measured with accelerate 1.15: it quietly runs DDP instead.
        raise SettingError(
            "placement fsdp2 needs an accelerator, because Accelerate runs no FSDP2 on CPUs; try "
            f"python -m {(__package__ or '')}.reference.fsdp2, which does"
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", config.mixed_precision):
        raise SettingError(
            f"accelerate launch was told mixed_precision {launched} and the run "
            f"{config.mixed_precision}; try --mixed-precision {launched}"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO") != "NO" and not config.compile:
        raise SettingError("accelerate launch was told to compile and the run not; try --compile")


def make_accelerator(
    config: TrainConfig, devices: Devices, accumulation_steps: int = 1
) -> Accelerator:
    """Return an `Accelerator` for `devices`; starts the process group where there are several.

    Raises:
        SettingError: Accelerate set up something else than was asked for.
    """
    sharding = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=["Block"],
    )
    accelerator = Accelerator(
        cpu=devices.device.type == "cpu",
        # DataParallel's threads do not inherit autocast: `AutocastForward` does it inside.
        mixed_precision="no" if devices.strategy == "data_parallel" else config.mixed_precision,
        # sync_with_dataloader=False: this project's loader is not Accelerate's.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=accumulation_steps, sync_with_dataloader=False
        ),
        fsdp_plugin=sharding if devices.strategy == "fsdp2" else None,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS))
        ],
    )
    kind = accelerator.distributed_type.value
    if (
        accelerator.num_processes != devices.world_size
        or kind not in (DISTRIBUTED_TYPES[devices.strategy])
    ):
        raise SettingError(
            f"Accelerate set up {accelerator.num_processes} process(es) of type {kind} where "
            f"{devices.world_size} of {devices.strategy} were asked for; type: torchrun "
            f"--nproc-per-node {devices.world_size} -m {program_name()}, and the same flags"
        )
    return accelerator


class AutocastForward(nn.Module):
    """Autocast inside a replica of DataParallel, whose threads start without the caller's."""

    def __init__(self, module: nn.Module, mixed_precision: str) -> None:
        super().__init__()
        self.module = module
        self.enabled = mixed_precision == "bf16"

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.autocast(inputs.device.type, dtype=torch.bfloat16, enabled=self.enabled):
            outputs: Tensor = self.module(inputs)
        return outputs.float() if self.enabled else outputs
