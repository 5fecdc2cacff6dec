"""What a checkpoint costs the training loop, and how long a resumed run takes to its first step.

`nox -s resume_time` runs it (minutes), on one CPU thread of a machine that does nothing else.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from .projects import render

NUM_PAIRS, NUM_STEPS, NUM_CHECKPOINTS = 5, 12, 3
SETTINGS = ["--placement", "cpu", "--tracker", "none", "--eval-every", "0", "--log-every", "1"]

# Starters, and the flags of their runs: a small model, one of 10 and one of 124 million parameters.
SHORT_TEXT = "text.txt"
SMALL = ["--block-size", "32", "--global-batch-size", "4", "--micro-batch-size", "4"]
MODELS: list[tuple[str, list[str]]] = [
    ("vision", []),
    ("language", ["--size", "10M", "--block-size", "32"]),
    ("language", ["--size", "124M", *SMALL, "--data-file", SHORT_TEXT]),
]

# A run that stopped after a few steps becomes one that stopped after `step`.
MOVE = """
import json, sys
from pathlib import Path
from my_run.checkpoint.store import checkpoint_folder, read_manifest, read_tensors, saved_steps
from my_run.checkpoint.store import write_checkpoint

run_dir, step = Path(sys.argv[1]), int(sys.argv[2])
folder = checkpoint_folder(run_dir, saved_steps(run_dir)[0])
facts, tensors = read_manifest(folder), read_tensors(folder)
del facts["files"], facts["step"]
write_checkpoint(run_dir, step, tensors, facts)
line = json.loads((run_dir / "metrics.jsonl").read_text().splitlines()[0])
with (run_dir / "metrics.jsonl").open("w") as file:
    for number in range(1, step + 1):
        file.write(json.dumps({**line, "step": number}) + "\\n")
"""


def main() -> None:
    """Render projects, measure both, and print medians."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environments = {
            starter: os.environ
            | {"PYTHONPATH": str(render(starter, folder)), "OMP_NUM_THREADS": "1"}
            for starter in ("vision", "language")
        }
        (folder / SHORT_TEXT).write_text("A few words of text. " * 300, encoding="utf-8")
        measure_stall(folder, environments)
        measure_start(folder, environments["vision"])


def measure_stall(folder: Path, environments: dict[str, dict[str, str]]) -> None:
    """Save three times in twelve steps, and compare what the loop waited with its steps."""
    for starter, flags in MODELS:
        stalls, steps = [], []
        for _ in range(NUM_PAIRS):
            shutil.rmtree(folder / "run", ignore_errors=True)
            every = str(NUM_STEPS // NUM_CHECKPOINTS)
            settings = [*SETTINGS, *flags, "--max-steps", str(NUM_STEPS)]
            settings += ["--checkpoint-every", every, "--run-dir", str(folder / "run")]
            command = [sys.executable, "-m", "my_run.train", *settings]
            subprocess.run(
                command, check=True, capture_output=True, env=environments[starter], cwd=folder
            )
            summary = json.loads((folder / "run" / "summary.json").read_text(encoding="utf-8"))
            stalls.append(summary["checkpoint_seconds"] / NUM_CHECKPOINTS * 1000)
            steps.append(summary["train_seconds"] / NUM_STEPS * 1000)
        name = " ".join([starter, *flags[:2]])
        size_bytes = sum(file.stat().st_size for file in (folder / "run").glob("checkpoints/*12/*"))
        print(
            f"{name}: a checkpoint of {size_bytes / 1e6:.1f} MB holds the loop for "
            f"{statistics.median(stalls):.1f} ms ({min(stalls):.1f} to {max(stalls):.1f}); a step "
            f"takes {statistics.median(steps):.1f} ms"
        )


def measure_start(folder: Path, environment: dict[str, str]) -> None:
    """Resume at step 100 and at step 100,000, in turn."""
    settings = [*SETTINGS, "--max-steps", "200000", "--checkpoint-every", "3"]
    base = folder / "base"
    command = [sys.executable, "-m", "my_run.train", *settings, "--run-dir", str(base)]
    job = subprocess.Popen(command, stdout=subprocess.DEVNULL, env=environment)
    while not list(base.glob("checkpoints/step_*")):
        time.sleep(0.01)
    job.terminate()
    job.wait()
    seconds: dict[int, list[float]] = {100: [], 100_000: []}
    for number in range(NUM_PAIRS):
        for step in seconds if number % 2 else reversed(seconds):
            run_dir = folder / str(step)
            shutil.rmtree(run_dir, ignore_errors=True)
            shutil.copytree(base, run_dir)
            subprocess.run(
                [sys.executable, "-c", MOVE, run_dir, str(step)], check=True, env=environment
            )
            command = [sys.executable, "-m", "my_run.train", *settings, "--run-dir", str(run_dir)]
            log = run_dir / "metrics.jsonl"
            size = log.stat().st_size
            began = time.perf_counter()
            job = subprocess.Popen(
                [*command, "--resume", "must"], stdout=subprocess.DEVNULL, env=environment
            )
            while log.stat().st_size <= size:
                time.sleep(0.001)
            seconds[step].append(time.perf_counter() - began)
            job.kill()
            job.wait()
    early, late = (statistics.median(values) for values in seconds.values())
    ratios = [b / a for a, b in zip(*seconds.values(), strict=True)]
    print(
        f"from the start to the first step: {early:.2f} s at step 100, {late:.2f} s at step "
        f"100,000; ratio of pairs {statistics.median(ratios):.3f} ({min(ratios):.3f} to "
        f"{max(ratios):.3f})"
    )


if __name__ == "__main__":
    main()
