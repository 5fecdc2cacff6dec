"""Devices and processes: the requested placement, checked against launcher and machine.

*Placement* is the setting: what the user requires. *Strategy* is what it resolves to: single,
data_parallel, ddp or fsdp2. *Devices* are the processes and hardware that the strategy runs on.
"""

import os
from dataclasses import dataclass

import torch

from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .program import accelerate_sets, forget_launcher, program_name, read_launcher
from .versions import obstacle_to_ordered_reduce_scatter


@dataclass(frozen=True)
class Devices:
    """The processes of the job and the devices that each of them drives."""

    strategy: str
    """single, data_parallel, ddp or fsdp2."""

    device: torch.device
    """The device of this process; for data_parallel the first of several."""

    rank: int
    world_size: int
    devices_per_process: int = 1

    exact: bool = False
    """Whether gradients are summed in a fixed order, for the same bits on any world size."""

    obstacle: str | None = None
    """Why gradients cannot be summed in a fixed order; None if they can."""

    @property
    def is_main_process(self) -> bool:
        """Whether this is rank 0, which alone prints and writes."""
        return self.rank == 0

    @property
    def data_parallel_size(self) -> int:
        """Replicas of the model that see different data."""
        return self.world_size * self.devices_per_process


def find_devices(config: RunConfig, strategy: str | None = None) -> Devices:
    """Return what `config.placement` means on this machine, under this launcher.

    Reads environment variables and looks for accelerators; starts nothing. If placement is auto
    and its strategy cannot be exact, the run is not exact, and the plan says so.

    Args:
        config: `placement`, `mixed_precision`, `compile` and `exact` are checked.
        strategy: The one strategy of a reference program; None for `train`, which has all of them.

    Raises:
        SettingError: placement, launcher, precision and machine do not fit together.
    """
    world_size = read_launcher()
    on_cpu = config.placement == "cpu" or accelerate_sets("USE_CPU")
    accelerator = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    device_type = accelerator.type if accelerator else "cpu"
    num_devices = torch.accelerator.device_count() if accelerator else 1
    by_accelerate = strategy is None
    if by_accelerate and world_size == 1:
        forget_launcher()
    if strategy is None:
        strategy = _strategy_of(config, world_size, num_devices)
    else:
        _check_placement_of_reference(config, strategy)
    devices_per_process = num_devices if strategy == "data_parallel" else 1
    _check_one_process(strategy, world_size)
    _check_precision(config, strategy, device_type)
    _check_compile(config, devices_per_process)
    obstacle = _obstacle_to_exact(
        strategy, world_size, devices_per_process, by_accelerate=by_accelerate
    )
    if config.exact and obstacle and config.placement == strategy:
        raise SettingError(f"placement {strategy} cannot be exact: {obstacle}; try --no-exact")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    if accelerator:
        _check_one_device_per_process(local_rank, num_devices)
    return Devices(
        strategy=strategy,
        device=torch.device(device_type, local_rank) if accelerator else torch.device("cpu"),
        rank=int(os.environ.get("RANK", 0)),
        world_size=world_size,
        devices_per_process=devices_per_process,
        exact=config.exact and not obstacle,
        obstacle=obstacle,
    )


def _strategy_of(config: RunConfig, world_size: int, num_devices: int) -> str:
    """Return the strategy that a placement stands for under this launcher."""
    placement = config.placement
    if placement in ("ddp", "fsdp2") and world_size == 1:
        # Some launch commands silently start one process.
        raise SettingError(
            f"placement {placement} needs several processes and the launcher started one; type: "
            f"torchrun --nproc-per-node {max(2, num_devices)} -m {program_name()} "
            f"--placement {placement}"
        )
    if placement not in ("auto", "cpu"):
        return placement
    if world_size > 1:
        return "fsdp2" if accelerate_sets("USE_FSDP") else "ddp"
    return "data_parallel" if num_devices > 1 else "single"


def _check_placement_of_reference(config: RunConfig, strategy: str) -> None:
    if config.placement not in ("auto", "cpu", strategy):
        raise SettingError(
            f"this program's strategy is {strategy}, not {config.placement}; type: "
            f"python -m {program_name().rpartition('.')[0]}.{config.placement}"
        )


def _check_one_process(strategy: str, world_size: int) -> None:
    if strategy in ("single", "data_parallel") and world_size > 1:
        raise SettingError(
            f"placement {strategy} is one process and the launcher started {world_size}; type: "
            f"python -m {program_name()} --placement {strategy}"
        )


def _check_precision(config: RunConfig, strategy: str, device_type: str) -> None:
    if config.mixed_precision == "fp16" and strategy == "data_parallel":
        raise SettingError(
            "data_parallel does not support fp16; try --mixed-precision bf16, or ddp"
        )
    if config.mixed_precision == "fp16" and device_type == "cpu":
        raise SettingError("mixed_precision fp16 needs a GPU; try --mixed-precision bf16")
    if (
        config.mixed_precision == "bf16"
        and device_type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise SettingError("this GPU has no bf16; try --mixed-precision fp16")


def _check_compile(config: RunConfig, devices_per_process: int) -> None:
    if config.compile and devices_per_process > 1:
        raise SettingError(
            "data_parallel does not support torch.compile: every replica would run the code of "
            "the first device; try --no-compile, or type: torchrun --nproc-per-node "
            f"{devices_per_process} -m {program_name()}"
        )


def _obstacle_to_exact(
    strategy: str, world_size: int, devices_per_process: int, *, by_accelerate: bool
) -> str | None:
    """Return why a strategy cannot sum gradients in a fixed order; None if it can."""
    if devices_per_process > 1:
        return "DataParallel sums the gradients of its replicas in PyTorch's own order"
    if strategy == "fsdp2" and by_accelerate:
        return "Accelerate clips by the norms of shards (reference.fsdp2 can be exact)"
    if strategy == "fsdp2" and world_size == 1:
        return "FSDP2 on one process skips the reduce-scatter, which orders the sums"
    if strategy == "fsdp2":
        return obstacle_to_ordered_reduce_scatter()
    return None


def _check_one_device_per_process(local_rank: int, num_devices: int) -> None:
    # Compare counts, not this rank's device: every rank must raise, and only local rank 0 prints.
    num_local = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), local_rank + 1)
    if num_local > num_devices:
        raise SettingError(
            f"{num_local} processes were started for the {num_devices} device(s) of this machine; "
            f"type: torchrun --nproc-per-node {num_devices} -m {program_name()}, or try "
            "--placement cpu"
        )
