"""Seeds derived from their position in the run, so that no generator state has to be saved."""

import random
import struct
from functools import cache
from hashlib import blake2b
from types import ModuleType
from typing import Any

import numpy as np
import torch

# A stream for each use of random numbers, or augmentation and dropout would correlate.
ORDER_STREAM, DATA_STREAM, FORWARD_STREAM, EVALUATION_STREAM = 0, 1, 2, 3
RANDOM_NUMBERS = "blake2b"
"""How seeds are derived; a checkpoint says it, because another derivation is another run."""

# Inductor's own random numbers change dropout: weights differ by 1 % of the largest in 20 steps.
COMPILE_OPTIONS: dict[str, Any] = {"fallback_random": True}


def derive_seed(seed: int, stream: int, *position: int) -> int:
    """Return a seed in [0, 2**63) for one use of random numbers at one position of the run.

    Its hash: numpy's SeedSequence takes 14 times as long, which shows in steps of a millisecond.

    Source: Salmon et al., Parallel Random Numbers: As Easy as 1, 2, 3, 2011, section 2, for numbers
    that are a keyed function of a counter.
    """
    key = struct.pack(f"<{2 + len(position)}Q", seed, stream, *position)
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "little") >> 1


def seed_all(seed: int) -> None:
    """Seed the global generators of torch, numpy and random.

    The last two, which losses with mixup use, take 8 microseconds.
    """
    seed_torch(seed)
    np.random.seed(seed % 2**32)
    random.seed(seed)


def seed_torch(seed: int) -> None:
    """Seed the generators in use, to the same state as `torch.manual_seed`.

    `torch.manual_seed` also queues a seed, with a formatted stack trace, for each kind of device
    that is not initialized, which takes a sixth of a run on a CPU.
    """
    torch.default_generator.manual_seed(seed)
    accelerator = _accelerator_module()
    if accelerator is None:
        return
    if not hasattr(accelerator, "is_initialized"):  # MPS: a single device, always ready.
        accelerator.manual_seed(seed)
    elif accelerator.is_initialized():
        accelerator.manual_seed_all(seed)


@cache
def _accelerator_module() -> ModuleType | None:
    """Return `torch.cuda`, `torch.xpu` or such; None on a CPU."""
    accelerator = torch.accelerator.current_accelerator(check_available=True)
    return torch.get_device_module(accelerator) if accelerator else None


def seed_forward(seed: int, step: int, micro_batches: range) -> None:
    """Seed dropout, and what else a forward pass and its loss draw.

    DataParallel runs several micro-batches in one pass, each on a GPU with its own generator.
    """
    seed_all(derive_seed(seed, FORWARD_STREAM, step, micro_batches[0]))
    for device, micro_batch in enumerate(micro_batches[1:], start=1):
        device_seed = derive_seed(seed, FORWARD_STREAM, step, micro_batch)
        torch.cuda.default_generators[device].manual_seed(device_seed)
