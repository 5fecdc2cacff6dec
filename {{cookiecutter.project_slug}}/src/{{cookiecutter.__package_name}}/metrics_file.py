"""`metrics.jsonl`: one JSON object a line for each logged step and each evaluation."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .files import as_json

METRICS_FILE = "metrics.jsonl"


def append_metrics(run_dir: Path, line: Mapping[str, Any]) -> None:
    """Add one line."""
    with (run_dir / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write(as_json(line) + "\n")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`."""
    text = (run_dir / METRICS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]


def cut_metrics(run_dir: Path, step: int) -> None:
    """Cut off what was written after `step`, and the test results, which the end of a run makes.

    Behind that step lines may be half or spoiled: a machine can stop in the middle of one. Only
    they are looked at, so that a long log takes no longer.
    """
    with (run_dir / METRICS_FILE).open("a+b") as file:
        file.seek(0)
        content = file.read()
        end = len(content)
        while end:
            start = content.rfind(b"\n", 0, end - 1) + 1
            if _is_before(content[start:end], step):
                break
            end = start
        file.truncate(end)


def _is_before(line: bytes, step: int) -> bool:
    try:
        values = json.loads(line)
    except ValueError:
        return False
    return line.endswith(b"\n") and values["step"] <= step and values["split"] != "test"
