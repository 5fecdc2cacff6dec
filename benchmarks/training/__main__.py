"""Time the project's training loops beside those that one would pick instead, turn by turn.

`nox -s bench` runs it. Every loop does the same work: the project's data, model, optimizer, steps
and evaluation. It writes a JSON and a Markdown file, and a picture.
"""

import argparse
import json
import random
import sys
import tempfile
from pathlib import Path
from typing import Any

from ..projects import render
from .machine import describe
from .measure import LoopFailed, Workplace
from .report import draw, markdown
from .rows import CPU_JOBS, GPU_JOBS


def parse() -> argparse.Namespace:
    """Return the flags."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.training", description=__doc__)
    parser.add_argument("--gpu", action="store_true", help="the jobs for one GPU")
    parser.add_argument("--rounds", type=int, default=3, help="how often each loop runs")
    names = sorted({*CPU_JOBS, *GPU_JOBS})
    parser.add_argument("--job", action="append", choices=names, help="may be repeated")
    parser.add_argument("--loop", action="append", help="only rows of this loop; may be repeated")
    parser.add_argument("--steps", type=int, help="optimizer steps, to try this program")
    parser.add_argument("--projects", type=Path, help="rendered projects, in STARTER/my-run")
    parser.add_argument("--output", type=Path, default=Path("bench-results"))
    return parser.parse_args()


def main() -> None:
    """Run rows in turns, and write the files anew after each run."""
    options = parse()
    jobs = GPU_JOBS if options.gpu else CPU_JOBS
    chosen = {name: job for name, job in jobs.items() if not options.job or name in options.job}
    with tempfile.TemporaryDirectory(prefix="bench-", ignore_cleanup_errors=True) as name:
        scratch = Path(name)
        if options.projects is None:
            for starter in {job.starter for job in chosen.values()}:
                render(starter, scratch / "projects")
        projects = (options.projects or scratch / "projects").resolve()
        here = Workplace(projects, scratch, options.gpu, options.steps)
        results: dict[str, Any] = {"machine": describe(is_gpu=options.gpu), "jobs": {}}
        failed: list[str] = []
        for number in range(1, options.rounds + 1):
            for name, job in chosen.items():
                rows = [row for row in job.rows if not options.loop or row.loop in options.loop]
                # In another order each time, so that no row always follows the same one.
                for row in random.Random(number).sample(rows, len(rows)):
                    print(f"round {number}, {name}: {row.name}", flush=True)
                    runs = results["jobs"].setdefault(name, {}).setdefault(row.name, [])
                    try:
                        runs.append(here.measure(job, row))
                    except LoopFailed as error:
                        failed.append(row.name)
                        print(error, flush=True)
                    write(options.output, results)
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


def write(folder: Path, results: dict[str, Any]) -> None:
    """Write the results and what is made of them."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "bench.json").write_text(json.dumps(results, indent=1), encoding="utf-8")
    (folder / "bench.md").write_text(markdown(results), encoding="utf-8")
    draw(results, folder / "bench.png")


if __name__ == "__main__":
    main()
