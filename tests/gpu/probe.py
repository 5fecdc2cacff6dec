"""Print what a report says of this machine, as JSON: a script, for the Python that trains."""

import importlib.util
import json
import os
import platform
import shutil
import subprocess
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = ("accelerate", "numpy", "triton")
COMPILERS = ("cc", "gcc", "clang", "g++")


def main() -> None:
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu": cpu_name(),
        "cpu_count": os.cpu_count(),
        **of_driver(),
        "compiler": next(filter(shutil.which, [os.environ.get("CC", "cc"), *COMPILERS]), None),
        **{name: version_of(name) for name in PACKAGES},
        "torch": None,
        "gpus": [],
    }
    if importlib.util.find_spec("torch"):
        facts |= of_torch()
    print(json.dumps(facts))


def of_torch() -> dict[str, Any]:
    torch: Any = importlib.import_module("torch")
    cuda = torch.cuda
    facts = {
        "torch": torch.__version__,
        "cuda": torch.version.cuda or getattr(torch.version, "hip", None),
        "cudnn": torch.backends.cudnn.version() if cuda.is_available() else None,
        # PyTorch's defaults, under which float32 may be less on a GPU.
        "cudnn_allows_tf32": torch.backends.cudnn.allow_tf32,
        "float32_matmul_precision": torch.get_float32_matmul_precision(),
    }
    if not cuda.is_available():
        return facts
    devices = [cuda.get_device_properties(index) for index in range(cuda.device_count())]
    gpus = [
        {
            "name": device.name,
            "memory_bytes": device.total_memory,
            "compute_capability": f"{device.major}.{device.minor}",
        }
        for device in devices
    ]
    has_bf16 = cuda.is_bf16_supported(including_emulation=False)
    return facts | {"gpus": gpus, "has_bf16": has_bf16, "nccl": nccl_version()}


def nccl_version() -> str | None:
    try:
        number = importlib.import_module("torch.cuda.nccl").version()
    except Exception:
        return None
    return ".".join(map(str, number)) if isinstance(number, tuple) else str(number)


def of_driver() -> dict[str, str | None]:
    """Return what NVIDIA's own program says, if it is there."""
    names = ("driver", "compute_mode")
    if not shutil.which("nvidia-smi"):
        return dict.fromkeys(names)
    command = ["nvidia-smi", "--query-gpu=driver_version,compute_mode", "--format=csv,noheader"]
    printed = subprocess.run(command, capture_output=True, text=True, timeout=60).stdout
    words = [word.strip() or None for word in printed.partition("\n")[0].split(",")]
    return dict(zip(names, [*words, None, None], strict=False))


def cpu_name() -> str:
    file = Path("/proc/cpuinfo")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def version_of(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


if __name__ == "__main__":
    main()
