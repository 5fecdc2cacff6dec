"""What a loop notes of itself: step times, memory, and on a GPU the time of its kernels."""

import json
import os
import re
import time
from pathlib import Path
from typing import Any

import torch

from tests.gpu.rank import peak_of_process

# The environment variables by which a loop is told where to write, when it was started, and after
# which step it stops without an evaluation.
OUTPUT, STARTED, STOP = "BENCHMARK_OUTPUT", "BENCHMARK_STARTED", "BENCHMARK_STOP"
# On a GPU, the host runs ahead: a time is that of a few steps, after a synchronization.
GPU_WINDOW, PROFILED_STEPS = 10, 4


class Recorder:
    """Notes the end of each optimizer step.

    Args:
        total_steps: Of the run; on a GPU, the last ones are profiled instead of timed.
        is_gpu: Whether steps are queued on a GPU.
    """

    def __init__(self, total_steps: int, *, is_gpu: bool) -> None:
        self.total_steps, self.is_gpu = total_steps, is_gpu
        self.steps_done = 0
        self.ends: list[tuple[int, float]] = []
        self.first_step_seconds = 0.0
        self.own_bytes = 0
        """Memory after the last step, without the pages of mapped files."""

        self.kernel_ms: float | None = None
        self.peak_seconds_per_sample: float | None = None
        """FLOPs of a sample over the peak FLOP/s of the device, as the project has both."""

        self._profiler: Any = None

    def step(self) -> None:
        """Note the end of a step."""
        self.steps_done += 1
        if self.steps_done == 1:
            self._synchronize()
            self.first_step_seconds = time.time() - float(os.environ[STARTED])
        last_timed = self.total_steps - PROFILED_STEPS - 1 if self.is_gpu else self.total_steps
        if self.steps_done <= last_timed and self.steps_done % (GPU_WINDOW * self.is_gpu or 1) == 0:
            self._synchronize()
            self.ends.append((self.steps_done, time.perf_counter()))
        if self.steps_done == self.total_steps:
            self.own_bytes = bytes_beside_files()
        if self.is_gpu:
            self._profile(self.steps_done - last_timed)

    def finish(self, test_loss: float) -> None:
        """Write what was noted, as JSON."""
        pairs = zip(self.ends, self.ends[1:], strict=False)
        notes = {
            "step_ms": [1000 * (b - a) / (step - before) for (before, a), (step, b) in pairs],
            "first_step_seconds": self.first_step_seconds,
            "steps": self.steps_done,
            "test_loss": test_loss,
            "kernel_ms": self.kernel_ms,
            "peak_seconds_per_sample": self.peak_seconds_per_sample,
            "process_bytes": peak_of_process(),
            "own_bytes": self.own_bytes,
            "gpu_bytes": torch.cuda.max_memory_allocated() if self.is_gpu else 0,
        }
        Path(os.environ[OUTPUT]).write_text(json.dumps(notes), encoding="utf-8")

    def _synchronize(self) -> None:
        if self.is_gpu:
            torch.cuda.synchronize()

    def _profile(self, step: int) -> None:
        """Start the profiler at step 0, and stop it at the end of the last step that it records."""
        if step == 0:
            self._synchronize()
            activities = [torch.profiler.ProfilerActivity.CUDA]
            self._profiler = torch.profiler.profile(activities=activities)
            self._profiler.start()
        if step == PROFILED_STEPS:
            self._synchronize()
            self._profiler.stop()
            spans = [
                (event.time_range.start, event.time_range.end)
                for event in self._profiler.events()
                if "CUDA" in str(event.device_type)
            ]
            self.kernel_ms = length_of(spans) / 1000 / PROFILED_STEPS


def bytes_beside_files() -> int:
    """Return this process's memory without the pages of mapped files; 0 where unknown.

    The system takes those pages back when it needs them: they are no cost of more data.
    """
    status = Path("/proc/self/status")
    if not status.exists():
        return 0
    pages = re.search(r"^RssAnon:\s+(\d+) kB$", status.read_text(encoding="utf-8"), re.MULTILINE)
    return int(pages[1]) * 1024 if pages else 0


def length_of(spans: list[tuple[float, float]]) -> float:
    """Return the length of the union of spans: kernels may run side by side."""
    length, until = 0.0, float("-inf")
    for start, end in sorted(spans):
        length += max(0.0, end - max(start, until))
        until = max(until, end)
    return length
