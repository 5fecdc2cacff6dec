"""The benchmark of the training loops: each number of its tables, and two loops once."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.training.recorder import length_of
from benchmarks.training.report import draw, fifth_percentile, markdown
from benchmarks.training.rows import BY_HAND, CPU_JOBS, GPU_JOBS

from .rendering import TEMPLATE

LOOPS = TEMPLATE / "benchmarks" / "training" / "loops"
PROGRAMS = ("train", "reference.single", "reference.ddp", "reference.fsdp2")
SAME_WORK = {"steps": 4, "test_loss": 0.5, "peak_seconds_per_sample": None}


def notes(*step_ms: float, **changes: Any) -> dict[str, Any]:
    """Return what a loop notes of itself."""
    own = {"step_ms": list(step_ms), "first_step_seconds": 2.0, "seconds": 3.0}
    memory = {"process_bytes": 4e8, "own_bytes": 2e8, "gpu_bytes": 2e9, "kernel_ms": 1.0}
    return {**SAME_WORK, **own, **memory, **changes}


def cells(table: str, row: str) -> list[str]:
    [line] = [line for line in table.splitlines() if line.startswith(f"| {row} |")]
    return [cell.strip() for cell in line.strip("|").split("|")]


def test_a_ratio_is_the_median_of_the_rounds_of_their_5th_percentiles(tmp_path: Path) -> None:
    measured = {
        BY_HAND: [notes(2.0, 2.0), notes(4.0, 4.0), notes(2.0, 2.0)],
        "`train`": [notes(3.0, 3.0), notes(4.0, 4.0), notes(2.2, 2.2)],
    }
    results = {"machine": {"is_gpu": False, "text": "A CPU."}, "jobs": {"overhead": measured}}
    text = markdown(results)
    draw(results, tmp_path / "bench.png")

    ratio = "1.10 (1.00 to 1.50)"
    shown = ["`train`", "3.00", "3.00", ratio, ratio, "2.0", "3.0", "400", "200", "0.500"]
    assert cells(text, "`train`") == shown
    assert cells(text, BY_HAND)[3] == "1"
    assert (tmp_path / "bench.png").stat().st_size > 10_000


def test_utilization_and_idle_time_of_a_gpu_are_of_the_step() -> None:
    """512 samples in 2 ms are 256,000 per second; of 2 ms, kernels take 1."""
    measured = {
        BY_HAND: [notes(2.0, 2.0)],
        "`train`": [notes(2.0, 2.0, peak_seconds_per_sample=1e9 / 1e15)],
    }
    machine = {"is_gpu": True, "text": "A GPU."}
    text = markdown({"machine": machine, "jobs": {"vision": measured}})

    assert cells(text, BY_HAND)[7:11] == ["256,000", "25.6%", "50.0%", "2.0"]


def test_times_without_the_first_steps_and_kernels_side_by_side() -> None:
    assert fifth_percentile({"step_ms": [1.0, *[5.0] * 19]}) == 5.0
    assert length_of([(0, 2), (1, 3), (5, 6), (5.5, 5.75)]) == 4


@pytest.mark.parametrize("jobs", [CPU_JOBS, GPU_JOBS])
def test_every_row_has_its_loop_and_the_row_beside_it(jobs: dict[str, Any]) -> None:
    for job in jobs.values():
        names = [row.name for row in job.rows]
        assert len(set(names)) == len(names)
        for row in job.rows:
            assert (LOOPS / f"{row.loop}.py").exists() or row.loop in PROGRAMS
            assert row.against in names


@pytest.mark.torch
def test_a_loop_by_hand_and_train_do_the_same_work(tmp_path: Path) -> None:
    """Not the same bits: the order of the samples is another one."""
    command = [sys.executable, "-m", "benchmarks.training", "--rounds", "1", "--steps", "4"]
    chosen = ["--job", "overhead", "--loop", "bare", "--loop", "train", "--output", str(tmp_path)]
    done = subprocess.run([*command, *chosen], cwd=TEMPLATE, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    results = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    runs = results["jobs"]["overhead"]

    assert {run["steps"] for [run] in runs.values()} == {4}
    [by_hand] = runs.pop(BY_HAND)
    for [run] in runs.values():
        assert len(run["step_ms"]) == 3 and run["first_step_seconds"] > 0.5
        assert run["test_loss"] == pytest.approx(by_hand["test_loss"], rel=0.1)
    assert "### Overhead" in (tmp_path / "bench.md").read_text(encoding="utf-8")
