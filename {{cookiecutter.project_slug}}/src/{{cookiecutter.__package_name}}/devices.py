"""What the run computes on: the placement that was asked for, compared with what there is."""

import os
import sys
from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist

from .config import Placement, Precision, TrainConfig
from .errors import SettingError

Shared = TypeVar("Shared")


@dataclass(frozen=True)
class Devices:
    """The processes of the job and the devices that each of them drives."""

    strategy: str
    """single, data_parallel, ddp or fsdp2."""

    device: torch.device
    """This process's device; with data_parallel the first of several."""

    rank: int
    world_size: int
    devices_per_process: int = 1

    exact: bool = False
    """Whether sums are ordered, and the result so the same to the last bit."""

    def autocast(self, mixed_precision: Precision) -> torch.autocast:
        """Return a context whose forward passes run in `mixed_precision`."""
        dtype = torch.float16 if mixed_precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device.type, dtype=dtype, enabled=mixed_precision != "no")

    @property
    def data_parallel_size(self) -> int:
        """Replicas that see different data."""
        return self.world_size * self.devices_per_process


def find_devices(config: TrainConfig, strategy: str | None = None) -> Devices:
    """Return what `config.placement` means on this machine, under this launcher.

    Reads environment variables and asks for devices; starts nothing. Where `placement` is auto
    and comes out as a strategy that cannot be exact, the run is not exact, and the plan says so.

    Args:
        config: The settings; `placement` and `mixed_precision` are checked against the machine.
        strategy: The only strategy of the calling program; None where Accelerate has them all.

    Raises:
        SettingError: placement, launcher, precision and machine do not fit; with what to type.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    on_cpu = config.placement == "cpu" or accelerate_says("USE_CPU")
    accelerator = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    device_type = accelerator.type if accelerator else "cpu"
    num_devices = torch.accelerator.device_count() if accelerator else 1
    by_accelerate = strategy is None
    if strategy is None:
        strategy = _strategy(config.placement, world_size, num_devices)
        _check_several(strategy, world_size, num_devices)
    elif config.placement not in ("auto", "cpu", strategy):
        raise SettingError(
            f"this program's placement is {strategy}, not {config.placement}; type: "
            f"python -m {program_name().rpartition('.')[0]}.{config.placement}"
        )
    if strategy in ("single", "data_parallel") and world_size > 1:
        raise SettingError(
            f"placement {strategy} is one process and the launcher started {world_size}; type: "
            f"python -m {program_name()} --placement {strategy}"
        )
    if strategy == "data_parallel" and config.mixed_precision == "fp16":
        raise SettingError("data_parallel has no fp16 here; try --mixed-precision bf16, or ddp")
    _check_precision(config.mixed_precision, device_type)
    devices_per_process = num_devices if strategy == "data_parallel" else 1
    if config.compile and devices_per_process > 1:
        raise SettingError(
            "data_parallel cannot be compiled: its replicas would run the first device's code; try "
            f"--no-compile, or type: torchrun --nproc-per-node {num_devices} -m {program_name()}"
        )
    obstacle = _obstacle_to_exact(
        strategy, world_size, devices_per_process, by_accelerate=by_accelerate
    )
    if config.exact and obstacle and config.placement == strategy:
        raise SettingError(f"placement {strategy} cannot be exact: {obstacle}; try --no-exact")
    local_rank = int(os.environ.get("LOCAL_RANK", 0))
    # By their number, so that every rank of the machine finds it.
    num_local = max(int(os.environ.get("LOCAL_WORLD_SIZE", 1)), local_rank + 1)
    if accelerator and num_local > num_devices:
        raise SettingError(
            f"{num_local} processes were started for the {num_devices} device(s) of this machine; "
            f"type: torchrun --nproc-per-node {num_devices} -m {program_name()}, or try "
            "--placement cpu"
        )
    return Devices(
        strategy=strategy,
        device=torch.device(device_type, local_rank) if accelerator else torch.device("cpu"),
        rank=int(os.environ.get("RANK", 0)),
        world_size=world_size,
        devices_per_process=devices_per_process,
        exact=config.exact and not obstacle,
    )


def from_rank_0(value: Shared) -> Shared:
    """Return rank 0's value on every rank; all ranks call it."""
    if not (dist.is_available() and dist.is_initialized()):
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]


def accelerate_says(name: str) -> bool:
    """Return whether `accelerate launch` has set one of its switches."""
    return os.environ.get(f"ACCELERATE_{name}", "").lower() == "true"


def program_name() -> str:
    """Return the module that `python -m` started."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else "PROGRAM"


def _strategy(placement: Placement, world_size: int, num_devices: int) -> str:
    """Return the strategy that a placement stands for."""
    if placement not in ("auto", "cpu"):
        return placement
    if world_size > 1:
        return "fsdp2" if accelerate_says("USE_FSDP") else "ddp"
    return "data_parallel" if num_devices > 1 else "single"


def _check_several(strategy: str, world_size: int, num_devices: int) -> None:
    """Raise where a launcher quietly started one process for a strategy of several."""
    if strategy in ("ddp", "fsdp2") and world_size == 1:
        raise SettingError(
            f"placement {strategy} needs several processes and the launcher started one; type: "
            f"torchrun --nproc-per-node {max(2, num_devices)} -m {program_name()} "
            f"--placement {strategy}"
        )


def _obstacle_to_exact(
    strategy: str, world_size: int, devices_per_process: int, *, by_accelerate: bool
) -> str | None:
    """Return why a strategy's sums have no fixed order, None where they can have one."""
    if devices_per_process > 1:
        return "PyTorch sums DataParallel's replicas in an order of its own"
    if strategy == "fsdp2" and by_accelerate:
        return "Accelerate clips by the norms of shards (reference.fsdp2 can be exact)"
    if strategy == "fsdp2" and world_size == 1:
        return "FSDP2 on one process leaves out the reduce-scatter, which orders the sums"
    return None


def _check_precision(mixed_precision: str, device_type: str) -> None:
    if mixed_precision == "fp16" and device_type == "cpu":
        raise SettingError("mixed_precision fp16 needs a GPU; try --mixed-precision bf16")
    if (
        mixed_precision == "bf16"
        and device_type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise SettingError("this GPU has no bf16; try --mixed-precision fp16")
