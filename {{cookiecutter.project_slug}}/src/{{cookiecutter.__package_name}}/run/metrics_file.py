"""`metrics.jsonl`: one JSON object per line, for each logged step and each evaluation.

`step` counts from 1, `epoch` from 0. NaN and inf are null.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..checkpoint.atomic import as_json

METRICS_FILE = "metrics.jsonl"
# Every line of an evaluation has these; they are no metrics.
OWN_NAMES = ("split", "step", "epoch", "samples")


def append_metrics(run_dir: Path, line: Mapping[str, Any]) -> None:
    """Append one line."""
    with (run_dir / METRICS_FILE).open("a", encoding="utf-8") as file:
        file.write(as_json(line) + "\n")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`; invalid ones are reported on stderr."""
    file, lines = run_dir / METRICS_FILE, []
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        try:
            lines.append(json.loads(line))
        except ValueError:
            print(f"{file}: line {number} is not valid JSON; skipped", file=sys.stderr)
    return lines


def truncate_metrics(run_dir: Path, step: int) -> None:
    """Remove the lines after `step` and the test results: the resumed run writes them again.

    Lines after that step may be incomplete: the machine may have stopped while writing one.
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
        is_before = values["step"] <= step and values["split"] != "test"
    except (ValueError, TypeError, LookupError):
        return False
    return line.endswith(b"\n") and is_before
