"""A program of the project, as `python -m` runs it, with the end of each step noted.

Its arguments: the program, and the program's own.
"""

import contextlib
import importlib
import json
import math
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

from ..recorder import STOP, Recorder


def main() -> None:
    """Run the program, and write what was noted; rank 0 alone does."""
    program, *flags = sys.argv[1:]
    # As `python -m` has it while it imports the package.
    sys.argv = ["-m", *flags]
    run: Any = importlib.import_module("my_run.run.run")
    advance = run.Run.advance
    peak_flops = importlib.import_module("my_run.run.peak_flops").peak_flops
    stop_at = int(os.environ.get(STOP, 0))
    recorders: list[Recorder] = []

    def advance_and_note(self: Any, step: int) -> None:
        advance(self, step)
        devices = self.plan.devices
        if not devices.is_main_process:
            return
        if not recorders:
            is_gpu = devices.device.type == "cuda"
            recorders.append(Recorder(stop_at or self.plan.total_steps, is_gpu=is_gpu))
        recorders[0].step()
        if recorders[0].is_gpu and step == recorders[0].total_steps:
            peak = peak_flops(devices, self.plan.config.mixed_precision)
            recorders[0].peak_seconds_per_sample = self.trial.flops_per_sample / peak
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGTERM)

    run.Run.advance = advance_and_note
    # A run that is stopped exits.
    with contextlib.suppress(SystemExit):
        runpy.run_module(f"my_run.{program}", run_name="__main__", alter_sys=True)
    if recorders:
        folder = Path(flags[flags.index("--run-dir") + 1])
        summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
        recorders[0].finish(summary.get("test_loss", math.nan))


if __name__ == "__main__":
    main()
