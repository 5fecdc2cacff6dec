"""One session: every check in turn, each on its own, and the report as it grows."""

import subprocess
import time
import tomllib
import traceback
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from .checks import CHECKS, Check
from .report import CANNOT_RUN, FAILED, JSON_FILE, LEFT_OUT, MARKDOWN_FILE, PASSED, write_report
from .workplace import CannotRun, RunFailed, Workplace


def run_checks(
    here: Workplace,
    output: Path,
    chosen: Collection[str],
    timeout_seconds: float,
    checks: Mapping[str, Check] = CHECKS,
) -> list[dict[str, Any]]:
    """Run the chosen checks, print and write what became of each, and return it.

    The files are written anew after every check: one that takes the machine down costs only itself.
    """
    outcomes: list[dict[str, Any]] = []
    report: dict[str, Any] = {
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": here.machine,
        "template_commit": commit_of(Path(__file__).parent),
        "project_commit": commit_of(here.project),
        "steps": here.steps,
        "remarks": list(remarks_on(here)),
        "checks": outcomes,
        "runs": here.runs,
    }
    print(*report["remarks"], sep="\n", flush=True)
    for name, check in checks.items():
        if name in chosen:
            outcomes.append({"name": name, **outcome_of(check, here, timeout_seconds)})
            show(outcomes[-1])
        else:
            outcomes.append({"name": name, "outcome": LEFT_OUT, "text": "by --only"})
        write_report(output, report)
    print()
    for outcome in (PASSED, CANNOT_RUN, LEFT_OUT, FAILED):
        found = [each["name"] for each in outcomes if each["outcome"] == outcome]
        print(f"{outcome}: {len(found)}{': ' if found else ''}{', '.join(found)}")
    print(f"{output / MARKDOWN_FILE}, {output / JSON_FILE}")
    return outcomes


def exit_code(outcomes: Collection[Mapping[str, Any]]) -> int:
    """Return 1 if a check failed; one that cannot run here is no failure."""
    return int(any(outcome["outcome"] == FAILED for outcome in outcomes))


def outcome_of(check: Check, here: Workplace, timeout_seconds: float) -> dict[str, Any]:
    """Run a check; whatever it raises becomes its outcome."""
    started = time.monotonic()
    here.deadline = started + timeout_seconds
    outcome: dict[str, Any] = {}
    try:
        found = check(here)
        outcome |= {"outcome": PASSED, "text": found.text, "values": found.values}
    except CannotRun as reason:
        outcome |= {"outcome": CANNOT_RUN, "text": str(reason)}
    except RunFailed as error:
        outcome |= {"outcome": FAILED, "text": str(error), "output": error.output}
    except AssertionError as error:
        outcome |= {"outcome": FAILED, "text": str(error) or traceback.format_exc(limit=-1)}
    except Exception:
        outcome |= {"outcome": FAILED, "text": traceback.format_exc(limit=-2)}
    return {**outcome, "seconds": round(time.monotonic() - started, 1)}


def show(outcome: Mapping[str, Any]) -> None:
    if outcome.get("output"):
        print(f"{outcome['output']}\n")
    seconds = f" ({outcome['seconds']} s)" if "seconds" in outcome else ""
    print(f"{outcome['outcome']}: {outcome['name']}: {outcome['text']}{seconds}", flush=True)


def remarks_on(here: Workplace) -> list[str]:
    """Return what a reader of the report has to know of this machine and project."""
    remarks = []
    if here.device == "cpu":
        remarks.append("On the CPU, by --device cpu: these figures say nothing of a GPU.")
    if not here.is_full:
        remarks.append(f"After {here.steps} steps, accuracies are told and not judged.")
    file = here.project / "pyproject.toml"
    dependencies = tomllib.loads(file.read_text(encoding="utf-8"))["project"]["dependencies"]
    [wanted] = [text for text in dependencies if text.startswith("torch>")]
    remarks.append(f"The project asks for {wanted}; this is {here.machine['torch']}.")
    return remarks


def commit_of(folder: Path) -> str | None:
    """Return the commit that a folder is at, with a mark if files differ; None if git fails."""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    except OSError:
        return None
    return done.stdout.strip() or None
