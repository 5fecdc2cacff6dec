"""The process group: joined before the data is read, left after the model is freed."""

import gc
import warnings
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from .collectives import is_distributed
from .devices import Devices
from .peers import PEERS

# Timeout of a collective: a rank was lost, or rank 0 is still writing the results. Not 600:
# Accelerate drops a timeout that equals its default, and gloo would then wait for 30 minutes.
PROCESS_GROUP_TIMEOUT_SECONDS = 601


def join_process_group(devices: Devices) -> None:
    """Make the process group of all ranks: NCCL on GPUs, gloo on CPUs."""
    PEERS.wait_until_ready()
    ignore_warning_of_ddp()
    is_gpu = devices.device.type != "cpu"
    if is_gpu:
        torch.accelerator.set_device_index(devices.device)
    alone: dict[str, Any] = {}
    if devices.world_size == 1:  # It needs no launcher.
        store = dist.HashStore()  # type: ignore[attr-defined]
        alone = {"store": store, "rank": 0, "world_size": 1}
    dist.init_process_group(
        dist.get_default_backend_for_device(devices.device),
        timeout=timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS),
        device_id=devices.device if is_gpu else None,
        **alone,
    )


def ignore_warning_of_ddp() -> None:
    """Hide a deprecation: torch 2.13 renames `broadcast_buffers`, which older ones need."""
    warnings.filterwarnings("ignore", message=".*broadcast_buffers", category=FutureWarning)


def leave_process_group() -> None:
    """End the process group on all ranks together, after the models in it are freed.

    Otherwise one run in ten ends with "terminate called without an active exception".
    """
    if is_distributed():
        # Rank 0 may still be writing results: a failure must reach the others.
        dist.barrier()
        PEERS.leave()
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
