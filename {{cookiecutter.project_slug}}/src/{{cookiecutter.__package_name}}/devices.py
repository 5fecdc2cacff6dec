"""What the run computes on: the placement that was asked for, compared with what there is."""

import os
import sys
from dataclasses import dataclass

import torch

from .config import Placement, SettingError, TrainConfig


@dataclass(frozen=True)
class Devices:
    """The processes of the job and the devices that each of them drives."""

    strategy: str
    """single, data_parallel, ddp or fsdp2."""

    device_type: str
    """cpu, or the accelerator's: cuda, xpu, mps, ..."""

    rank: int
    world_size: int
    devices_per_process: int

    @property
    def data_parallel_size(self) -> int:
        """Replicas that see different data."""
        return self.world_size * self.devices_per_process


def find_devices(config: TrainConfig) -> Devices:
    """Return what `config.placement` means on this machine, under this launcher.

    Reads environment variables and asks for devices; starts nothing.

    Raises:
        SettingError: placement, launcher, precision and machine do not fit; with what to type.
    """
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    on_cpu = config.placement == "cpu" or os.environ.get("ACCELERATE_USE_CPU", "").lower() == "true"
    accelerator = None if on_cpu else torch.accelerator.current_accelerator(check_available=True)
    device_type = accelerator.type if accelerator else "cpu"
    num_devices = torch.accelerator.device_count() if accelerator else 1
    strategy = _strategy(config.placement, world_size, num_devices)
    if strategy == "fsdp2" and device_type == "cpu":
        # Measured with accelerate 1.15: it quietly runs DDP instead.
        raise SettingError(
            "placement fsdp2 needs an accelerator, because Accelerate runs no FSDP2 on CPUs; try "
            "--placement ddp"
        )
    _check_precision(config, device_type)
    return Devices(
        strategy=strategy,
        device_type=device_type,
        rank=int(os.environ.get("RANK", 0)),
        world_size=world_size,
        devices_per_process=num_devices if strategy == "data_parallel" else 1,
    )


def _strategy(placement: Placement, world_size: int, num_devices: int) -> str:
    """Return the strategy that runs, or raise with the command line that would run `placement`."""
    module = (spec := sys.modules["__main__"].__spec__) and spec.name
    arguments = f"-m {module} --placement {placement}"
    if placement in ("ddp", "fsdp2") and world_size == 1:
        raise SettingError(
            f"placement {placement} needs several processes and the launcher started one; "
            f"type: torchrun --nproc-per-node {max(2, num_devices)} {arguments}"
        )
    if placement in ("single", "data_parallel") and world_size > 1:
        raise SettingError(
            f"placement {placement} is one process and the launcher started {world_size}; "
            f"type: python {arguments}"
        )
    if placement not in ("auto", "cpu"):
        return placement
    if world_size > 1:
        uses_fsdp = os.environ.get("ACCELERATE_USE_FSDP", "").lower() == "true"
        return "fsdp2" if uses_fsdp else "ddp"
    return "data_parallel" if num_devices > 1 else "single"


def _check_precision(config: TrainConfig, device_type: str) -> None:
    if config.mixed_precision == "fp16" and device_type == "cpu":
        # Measured with accelerate 1.15: it would quietly run float32, without a scaler.
        raise SettingError("mixed_precision fp16 needs a GPU; try --mixed-precision bf16")
    if (
        config.mixed_precision == "bf16"
        and device_type == "cuda"
        and not torch.cuda.is_bf16_supported(including_emulation=False)
    ):
        raise SettingError("this GPU has no bf16; try --mixed-precision fp16")
    launched = os.environ.get("ACCELERATE_MIXED_PRECISION", "no")
    if launched not in ("no", config.mixed_precision):
        raise SettingError(
            f"accelerate launch was told mixed_precision {launched} and the run "
            f"{config.mixed_precision}; try --mixed-precision {launched}"
        )
    if os.environ.get("ACCELERATE_DYNAMO_BACKEND", "NO") != "NO" and not config.compile:
        raise SettingError("accelerate launch was told to compile and the run not; try --compile")
