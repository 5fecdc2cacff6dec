"""The hardware and the versions that figures are of."""

import os
import platform
from typing import Any

import torch

from tests.gpu.probe import cpu_name, version_of

NAMES = ("torch", "accelerate", "lightning", "pytorch-ignite", "transformers", "numpy", "triton")


def describe(*, is_gpu: bool) -> dict[str, Any]:
    """Return hardware and versions, as text."""
    versions = [f"{name} {version}" for name in NAMES if (version := version_of(name))]
    name = torch.cuda.get_device_name() if is_gpu else cpu_name()
    system = f"{platform.system()}, Python {platform.python_version()}"
    threads = "" if is_gpu else "one thread per process; "
    return {
        "is_gpu": is_gpu,
        "text": f"{name}; {threads}{os.cpu_count()} CPUs; {system}, {', '.join(versions)}.",
    }
