"""The hardware and the versions that figures are of."""

import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

import torch

NAMES = ("torch", "accelerate", "lightning", "pytorch-ignite", "transformers", "numpy", "triton")
# Dense bf16, in FLOP/s, from the vendor's data sheet.
PEAKS = {"H200": 989e12, "H100 80GB": 989e12, "A100": 312e12}


def describe(*, is_gpu: bool) -> dict[str, Any]:
    """Return hardware and versions, as text, and the peak of the GPU in FLOP/s."""
    versions = []
    for name in NAMES:
        try:
            versions.append(f"{name} {importlib.metadata.version(name)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    name = torch.cuda.get_device_name() if is_gpu else processor()
    peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    system = f"{platform.system()}, Python {platform.python_version()}"
    threads = "" if is_gpu else "one thread per process; "
    return {
        "is_gpu": is_gpu,
        "text": f"{name}; {threads}{os.cpu_count()} CPUs; {system}, {', '.join(versions)}.",
        "peak_flops": peak if is_gpu else None,
    }


def processor() -> str:
    """Return the name of the CPU."""
    if sys.platform == "linux":
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
