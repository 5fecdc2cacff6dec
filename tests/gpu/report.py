"""The report: one JSON with every number, and one Markdown text to paste into a document."""

import json
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

JSON_FILE, MARKDOWN_FILE = "gpu.json", "gpu.md"
PASSED, FAILED, CANNOT_RUN, LEFT_OUT = "passed", "FAILED", "cannot run here", "left out"
CHECK_HEADINGS = ("check", "outcome", "what was found")
RUN_HEADINGS = ("run", "test loss", "accuracy", "step: 5th percentile, median, ms", "peak memory")


def write_report(folder: Path, report: Mapping[str, Any]) -> None:
    """Write both files, in place of what was there."""
    content = json.dumps(finite(report), indent=2, allow_nan=False) + "\n"
    (folder / JSON_FILE).write_text(content, encoding="utf-8")
    (folder / MARKDOWN_FILE).write_text(markdown(report), encoding="utf-8")


def markdown(report: Mapping[str, Any]) -> str:
    """Return the report as a section of a document."""
    left_out = [check["name"] for check in report["checks"] if check["outcome"] == LEFT_OUT]
    made = [check for check in report["checks"] if check["outcome"] != LEFT_OUT]
    parts = [
        f"## {title(report['machine'])}, {report['started'][:10]}",
        describe(report),
        table(CHECK_HEADINGS, [(c["name"], c["outcome"], c["text"]) for c in made]),
        *([f"Left out, by --only: {', '.join(left_out)}."] if left_out else []),
        "The runs: each number is of one run, its memory that of the rank with the most. GPU "
        "memory is what tensors took, and in brackets what PyTorch's cache held; on a CPU it is "
        "that of the process.",
        table(RUN_HEADINGS, (row_of(name, run) for name, run in report["runs"].items())),
    ]
    return "\n\n".join(parts) + "\n"


def title(machine: Mapping[str, Any]) -> str:
    """Return what ran the checks."""
    names = [gpu["name"] for gpu in machine["gpus"]]
    return ", ".join(f"{names.count(name)} x {name}" for name in dict.fromkeys(names)) or (
        f"No GPU: {machine['cpu']}"
    )


def describe(report: Mapping[str, Any]) -> str:
    """Return hardware, versions and settings, in two sentences."""
    machine = report["machine"]
    gpus = {
        f"{gpu['memory_bytes'] / 2**30:.0f} GiB, compute capability {gpu['compute_capability']}"
        for gpu in machine["gpus"]
    }
    names = ("driver", "cuda", "cudnn", "nccl", "torch", "triton", "accelerate", "numpy", "python")
    words = {"cuda": "CUDA", "cudnn": "cuDNN", "nccl": "NCCL", "python": "Python"}
    versions = [f"{words.get(name, name)} {machine.get(name) or 'none'}" for name in names]
    facts = [*sorted(gpus), machine["cpu"], f"{machine['cpu_count']} CPUs", machine["platform"]]
    tf32 = "may" if machine.get("cudnn_allows_tf32") and machine["gpus"] else "do not"
    return (
        f"{'; '.join([*facts, ', '.join(versions)])}. {report['steps']} steps a run; float32 "
        f"convolutions {tf32} use TF32, matrix products have precision "
        f"{machine.get('float32_matmul_precision')}. " + " ".join(report["remarks"])
    ).strip()


def row_of(name: str, run: Mapping[str, Any]) -> tuple[str, ...]:
    accuracy, loss = (run[key] for key in ("test_accuracy", "test_loss"))
    memory = megabytes(run["allocated_bytes"] or run["process_bytes"])
    if run["allocated_bytes"]:
        memory += f" ({megabytes(run['reserved_bytes'])})"
    times = f"{run['step_ms_p5']:.2f}, {run['step_ms_median']:.2f}"
    values = ["" if value is None else f"{value:.4f}" for value in (loss, accuracy)]
    return f"`{name}`", *values, times, memory


def megabytes(number: int) -> str:
    return f"{number / 1e6:,.0f} MB"


def table(headings: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Return a Markdown table; a line break or a bar in a cell would end it."""
    lines = [" | ".join(" ".join(cell.replace("|", "/").split()) for cell in row) for row in rows]
    rule = " | ".join("---" for _ in headings)
    return "\n".join(f"| {line} |" for line in [" | ".join(headings), rule, *lines])


def finite(value: Any) -> Any:
    """Return a value with None for NaN and inf, which JSON does not have."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, Mapping):
        return {name: finite(each) for name, each in value.items()}
    return [finite(each) for each in value] if isinstance(value, list | tuple) else value
