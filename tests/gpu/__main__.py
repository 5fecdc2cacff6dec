"""Compare precisions, exactness and placements on the GPUs of this machine.

It runs in a Python that has a torch for these GPUs and the project's other dependencies, installs
nothing and needs no network. It writes a JSON and a Markdown file, and says what it could not run
here, and why. Exit code 1: a comparison that must hold does not.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

from .checks import CHECKS
from .job import HERE, environment
from .session import exit_code, run_checks
from .workplace import Workplace

GPU_STEPS, CPU_STEPS = 200, 20


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.gpu", description=__doc__)
    parser.add_argument(
        "project", nargs="?", type=Path, help="a project with the vision starter; None renders one"
    )
    parser.add_argument("--output", type=Path, default=Path("gpu-results"), help="for the files")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda", help="cpu: to try it")
    parser.add_argument("--steps", type=int, help=f"of a run: {GPU_STEPS}, or {CPU_STEPS} on a CPU")
    parser.add_argument("--timeout", type=float, default=600, help="seconds for each check")
    parser.add_argument(
        "--only", action="append", choices=list(CHECKS), metavar="CHECK", help="may be repeated"
    )
    options = parser.parse_args(arguments)
    if options.project and not list(options.project.glob("src/*/train.py")):
        parser.error(f"{options.project} has no src/PACKAGE/train.py: it is no rendered project")
    return options


def main() -> None:
    options = parse()
    with tempfile.TemporaryDirectory(prefix="gpu-", ignore_cleanup_errors=True) as name:
        project = (options.project or render_project(Path(name) / "rendered")).resolve()
        machine = probe(project)
        if not machine["torch"]:
            leave(f"{sys.executable} has no torch")
        if options.device == "cpu":
            machine["gpus"] = []
        elif not machine["gpus"]:
            leave(f"torch {machine['torch']} finds no GPU here; --device cpu tries this program")
        logs = options.output / "logs"
        logs.mkdir(parents=True, exist_ok=True)
        steps = options.steps or (GPU_STEPS if machine["gpus"] else CPU_STEPS)
        here = Workplace(project, Path(name), logs, machine, steps)
        outcomes = run_checks(here, options.output, options.only or CHECKS, options.timeout)
    sys.exit(exit_code(outcomes))


def leave(reason: str) -> NoReturn:
    print(f"error: {reason}", file=sys.stderr)
    sys.exit(2)


def render_project(folder: Path) -> Path:
    """Render a project with the default answers, which takes cookiecutter."""
    try:
        from ..rendering import render
    except ImportError as error:
        leave(f"name a rendered project: none can be rendered here ({error})")
    result = render(folder, {})
    if result.returncode:
        leave(f"the template does not render\n{result.stderr}")
    return folder / "my-run"


def probe(project: Path) -> dict[str, Any]:
    """Return what the Python that trains says of this machine, by a process of its own."""
    command = [sys.executable, str(HERE / "probe.py")]
    done = subprocess.run(
        command, env=environment(project), capture_output=True, text=True, timeout=300
    )
    if done.returncode:
        leave(f"torch does not start\n{done.stderr}")
    facts: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return facts


if __name__ == "__main__":
    main()
