"""The `Accelerator`, configured for this project and checked against the requested strategy."""

import inspect
import os
from collections.abc import Sequence
from datetime import timedelta
from functools import cache
from typing import Any

import accelerate.optimizer
from accelerate import Accelerator
from accelerate.utils import (
    DistributedDataParallelKwargs,
    FullyShardedDataParallelPlugin,
    GradientAccumulationPlugin,
    InitProcessGroupKwargs,
)
from torch import nn
from torch.optim import Optimizer

from ..settings.errors import SettingError
from ..settings.run_config import Precision, RunConfig
from .devices import Devices
from .peers import PEERS
from .process_group import PROCESS_GROUP_TIMEOUT_SECONDS, ignore_warning_of_ddp
from .program import package_name, program_name

# How the names of Accelerate's types begin, such as MULTI_GPU.
DISTRIBUTED_TYPES = {"single": "NO", "data_parallel": "NO", "ddp": "MULTI_", "fsdp2": "FSDP"}


def check_launcher(config: RunConfig, devices: Devices) -> None:
    """Check the settings against those of `accelerate launch`, and against what it supports.

    Raises:
        SettingError: a setting would be silently ignored.
    """
    if devices.strategy == "fsdp2" and devices.device.type == "cpu":
        # Accelerate 1.15 silently runs DDP instead.
        raise SettingError(
            "placement fsdp2 needs an accelerator: Accelerate does not support FSDP2 on a CPU; "
            f"type: python -m {package_name()}.reference.fsdp2"
        )
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", config.mixed_precision):
        raise SettingError(
            f"accelerate launch sets mixed_precision {launched}, the run "
            f"{config.mixed_precision}; try --mixed-precision {launched}"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO") != "NO" and not config.compile:
        raise SettingError(
            "accelerate launch sets a dynamo backend, the run does not; try --compile"
        )


def make_accelerator(
    devices: Devices,
    mixed_precision: Precision,
    accumulation_steps: int = 1,
    shard_units: Sequence[type[nn.Module]] = (),
) -> Accelerator:
    """Return an `Accelerator` for `devices`; it joins the process group.

    Args:
        devices: What Accelerate must use.
        mixed_precision: Autocast dtype of the forward pass.
        accumulation_steps: Forward passes per optimizer step on each device.
        shard_units: Modules that FSDP2 shards and gathers as a unit.

    Raises:
        SettingError: Accelerate uses another strategy or world size than was asked for.
    """
    PEERS.wait_until_ready()
    ignore_warning_of_ddp()
    _look_up_once()
    sharding = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        transformer_cls_names_to_wrap=[unit.__name__ for unit in shard_units],
    )
    accelerator = Accelerator(
        cpu=devices.device.type == "cpu",
        # The threads of DataParallel do not inherit autocast; `AutocastForward` runs inside them.
        mixed_precision="no" if devices.strategy == "data_parallel" else mixed_precision,
        # sync_with_dataloader=False: the loader is not prepared by Accelerate.
        gradient_accumulation_plugin=GradientAccumulationPlugin(
            num_steps=accumulation_steps, sync_with_dataloader=False
        ),
        fsdp_plugin=sharding if devices.strategy == "fsdp2" else None,
        kwargs_handlers=[
            InitProcessGroupKwargs(timeout=timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS)),
            # The buffers of BatchNorm are kept alike on all ranks, see exact/batch_norm.py.
            DistributedDataParallelKwargs(broadcast_buffers=False),
        ],
    )
    kind, expected = accelerator.distributed_type.value, DISTRIBUTED_TYPES[devices.strategy]
    if accelerator.num_processes != devices.world_size or not kind.startswith(expected):
        raise SettingError(
            f"Accelerate uses {accelerator.num_processes} process(es) of type {kind} instead of "
            f"{devices.world_size} of {devices.strategy}; type: torchrun "
            f"--nproc-per-node {devices.world_size} -m {program_name()}, and the same flags"
        )
    return accelerator


def _look_up_once() -> None:
    """Let the optimizer of Accelerate look up once what it looks up in every step.

    Its `step` searches sys.path twice for the package lomo_optim, its `zero_grad` inspects the
    signature of torch's: 0.14 ms of a step on a CPU, where that of a small network takes 0.5.
    """
    module: Any = accelerate.optimizer
    if hasattr(module, "is_lomo_available"):
        module.is_lomo_available = cache(module.is_lomo_available)
    zero_grad: Any = Optimizer.zero_grad
    zero_grad.__signature__ = inspect.signature(zero_grad)
