"""Kernels whose result is the same at every call."""

import os

import torch

from ..distributed.devices import Devices
from ..settings.run_config import RunConfig


def use_deterministic_kernels(config: RunConfig, devices: Devices) -> None:
    """If the run is exact, use deterministic kernels, and a fixed number of threads on a CPU."""
    # The sums inside a CPU kernel depend on the number of threads.
    threads = config.threads or (1 if devices.exact else None)
    if threads:
        torch.set_num_threads(threads)
        # Without it, Accelerate would set another number of threads.
        os.environ.setdefault("OMP_NUM_THREADS", str(threads))
    if not devices.exact:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    # It would also fill new memory with NaN, which only finds mistakes: 900 calls in a small step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cudnn.benchmark = False
