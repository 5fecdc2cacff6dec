"""`metrics.jsonl`: one JSON object a line for each logged step and each evaluation."""

import json
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from .files import write_whole

METRICS_FILE = "metrics.jsonl"


def append_metrics(run_dir: Path, line: Mapping[str, Any]) -> None:
    """Add one line."""
    with (run_dir / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`."""
    text = (run_dir / METRICS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def cut_metrics(run_dir: Path, step: int) -> None:
    """Remove what was written after `step`, and the test results, which the end of a run makes.

    Behind that step lines may be cut off or spoiled: a machine can stop in the middle of one.
    """
    file = run_dir / METRICS_FILE
    text = file.read_text(encoding="utf-8", errors="replace") if file.exists() else ""
    kept = []
    for line in text.splitlines(keepends=True):
        with suppress(ValueError):
            values = json.loads(line)
            if values["step"] <= step and values["split"] != "test":
                kept.append(line)
    write_whole(file, "".join(kept))
