"""`--profile`: a trace of a few steps, and the operations that take most of their time."""

import os
import sys
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Self

import torch

from ..batches.plan import Plan
from .tables import print_table

TRACE_FILE = "trace.json"
# The first steps are slower: kernels are chosen and memory is reserved.
WAITING_STEPS, TRACED_STEPS = 3, 3
NUM_SHOWN, MAX_NAME = 10, 40


class StepProfiler(AbstractContextManager["StepProfiler"]):
    """Records steps of rank 0 with `torch.profiler`; does nothing without `--profile`."""

    def __init__(self, plan: Plan, run_dir: Path) -> None:
        self.file = run_dir / TRACE_FILE
        self._steps = -WAITING_STEPS
        self._profiler: torch.profiler.profile | None = None
        if plan.config.profile and plan.devices.is_main_process:
            # Profiling starts in the step before the first that is recorded.
            schedule = torch.profiler.schedule(
                wait=WAITING_STEPS - 1, warmup=1, active=TRACED_STEPS, repeat=1
            )
            # The profiler would write lines of its own to stderr.
            os.environ.setdefault("KINETO_LOG_LEVEL", "99")
            self._profiler = torch.profiler.profile(schedule=schedule, on_trace_ready=self._finish)

    def __enter__(self) -> Self:
        if self._profiler:
            self._profiler.start()
        return self

    def __exit__(self, *error: Any) -> None:
        if self._profiler:
            self._profiler.stop()
            if self._steps <= 0:
                print(f"nothing was profiled: it takes {WAITING_STEPS + 1} steps", file=sys.stderr)

    def step(self) -> None:
        """End a step."""
        if self._profiler:
            self._steps += 1
            self._profiler.step()

    def _finish(self, profiler: torch.profiler.profile) -> None:
        """Write the trace, and print a line for each of the dearest operations."""
        steps = min(self._steps, TRACED_STEPS)
        if steps <= 0:
            return
        profiler.export_chrome_trace(str(self.file))
        operations = profiler.key_averages()
        # A GPU's kernels; or on a CPU, the time of an operation without that of those it calls.
        seconds = {
            operation.key: operation.self_device_time_total / 1e6
            for operation in operations
            if not str(operation.device_type).endswith("CPU")
        } or {operation.key: operation.self_cpu_time_total / 1e6 for operation in operations}
        seconds = {name: value for name, value in seconds.items() if "ProfilerStep" not in name}
        counts = {operation.key: operation.count for operation in operations}
        total = sum(seconds.values()) or 1.0
        dearest = sorted(seconds, key=lambda name: -seconds[name])[:NUM_SHOWN]
        rows = {}
        for name in dearest:
            share, time = seconds[name] / total, 1e3 * seconds[name] / steps
            rows[name[:MAX_NAME]] = f"{share:5.1%} {time:8.3f} ms {counts[name] / steps:4.0f} calls"
        print_table(f"Dearest operations of a step, from {steps} steps", rows)
        print(f"Trace for chrome://tracing or ui.perfetto.dev: {self.file}")
