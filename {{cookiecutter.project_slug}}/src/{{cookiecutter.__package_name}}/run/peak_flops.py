"""Model FLOP utilization: the part of a device's peak that training needs for its FLOPs."""

import time

import torch

from ..distributed.devices import Devices
from ..settings.run_config import Precision

# Dense bf16 and fp16, in FLOP/s, from the vendors' data sheets; the first name that fits.
PEAKS = {
    "B200": 2250e12,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10": 125e12,
    "T4": 65e12,
    "RTX 4090": 165e12,
    "MI300X": 1307e12,
}
CPU_SIZE, GPU_SIZE = 512, 8192


def peak_flops(devices: Devices, precision: Precision) -> float:
    """Return the FLOP/s of all devices: of the data sheet for bf16 and fp16, else measured."""
    device, peak = devices.device, None
    if device.type == "cuda" and precision != "no":
        name = torch.cuda.get_device_name(device)
        peak = next((peak for part, peak in PEAKS.items() if part in name), None)
    return (peak or _measured_peak(device, precision)) * devices.data_parallel_size


def _measured_peak(device: torch.device, precision: Precision) -> float:
    """Return the FLOP/s of the fastest of five matrix products (10 ms on a CPU)."""
    dtype = {"no": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}[precision]
    size = CPU_SIZE if device.type == "cpu" else GPU_SIZE
    matrix = torch.ones(size, size, device=device, dtype=dtype)
    seconds = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(matrix, matrix)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        seconds.append(time.perf_counter() - start)
    return 2 * size**3 / min(seconds)
