"""Run a program of the project as `python -m` does, and note what it used: a script, for each rank.

Its arguments: a folder for the notes, "own" or "shared", the module, and the module's arguments.
Ranks that share the first device exchange their tensors by gloo, because NCCL refuses two ranks on
one GPU. Each then looks like the only rank of a machine of its own.
"""

import importlib
import json
import os
import runpy
import sys
from pathlib import Path
from typing import Any

# Not "gloo": with that name, a device mesh of FSDP2 would make a group of NCCL beside it.
SHARED_BACKEND = "cpu:gloo,cuda:gloo"


def main() -> None:
    folder, devices, module, *arguments = sys.argv[1:]
    # As `python -m` has it while it imports the package.
    sys.argv = ["-m", *arguments]
    notes: dict[str, Any] = {"rank": int(os.environ.get("RANK", 0))}
    note_backend(notes, is_shared=devices == "shared")
    leave_out_peak_flops(module.partition(".")[0])
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    finally:
        notes |= peak_memory()
        (Path(folder) / f"rank-{notes['rank']}.json").write_text(json.dumps(notes))


def note_backend(notes: dict[str, Any], *, is_shared: bool) -> None:
    """Note the backend of the process group; replace it where ranks share a device."""
    dist: Any = importlib.import_module("torch.distributed")
    init = dist.init_process_group
    if is_shared:
        # With it, find_devices and DDP take the first device.
        os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        gather_without_functional_collectives()

    def init_and_note(backend: Any = None, *positional: Any, **named: Any) -> None:
        if is_shared:
            backend = SHARED_BACKEND
            # A group that is bound to a GPU makes NCCL communicators.
            named["device_id"] = None
        init(backend, *positional, **named)
        notes["backend"] = str(dist.get_backend_config())

    dist.init_process_group = init_and_note


def gather_without_functional_collectives() -> None:
    """Let DTensor gather by plain collectives: with gloo, its own crash on a GPU (torch 2.11)."""
    dist: Any = importlib.import_module("torch.distributed")
    functional: Any = importlib.import_module("torch.distributed._functional_collectives")

    def gather(tensor: Any, gather_dim: int, group: Any, tag: str = "") -> Any:
        mesh, dimension = group
        of_mesh = mesh.get_group(dimension)
        parts = [tensor.new_empty(tensor.shape) for _ in range(of_mesh.size())]
        dist.all_gather(parts, tensor.contiguous(), group=of_mesh)
        return importlib.import_module("torch").cat(parts, dim=gather_dim)

    # Renamed in torch 2.13.
    for name in ("all_gather_tensor", "all_gather_single"):
        for suffix in ("", "_autograd"):
            if hasattr(functional, name + suffix):
                setattr(functional, name + suffix, gather)


def leave_out_peak_flops(package: str) -> None:
    """Count the memory from after the matrix products that measure the FLOP/s of the device."""
    speed: Any = importlib.import_module(f"{package}.run.speed")
    measure = speed.peak_flops

    def measure_and_reset(*positional: Any) -> Any:
        peak = measure(*positional)
        cuda = importlib.import_module("torch").cuda
        if cuda.is_initialized():
            cuda.empty_cache()
            cuda.reset_peak_memory_stats()
        return peak

    speed.peak_flops = measure_and_reset


def peak_memory() -> dict[str, int]:
    """Return the most bytes of GPU memory in tensors and in PyTorch's cache, and of the process."""
    cuda = importlib.import_module("torch").cuda
    peak = {"process_bytes": peak_of_process()}
    if cuda.is_initialized():
        devices = range(cuda.device_count())
        peak["allocated_bytes"] = max(cuda.max_memory_allocated(device) for device in devices)
        peak["reserved_bytes"] = max(cuda.max_memory_reserved(device) for device in devices)
    return peak


def peak_of_process() -> int:
    if sys.platform == "win32":
        return 0
    resource = importlib.import_module("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


if __name__ == "__main__":
    main()
