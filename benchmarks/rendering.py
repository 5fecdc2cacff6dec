"""Compare rendering this template, hooks and first commit included, with rendering an empty one.

`nox -s rendering_time` runs it: pairs of whole cookiecutter processes in turn, so that a machine
whose speed drifts slows both. Expect 0.2 to 0.4 s each, and a ratio of at most 1.5.

It renders in memory where the machine has a folder for that. For minutes after much was deleted on
an ext4 disk, making a file there is five to eight times as slow as before, and the ratio, which
is about the same on a fresh disk as in memory, goes to 1.9.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATE = Path(__file__).parents[1]
SHARED_MEMORY = Path("/dev/shm")
IN_MEMORY = SHARED_MEMORY if SHARED_MEMORY.is_dir() else None


def main() -> None:
    """Print the times of the pairs, and end with code 1 where the bound is not kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=21)
    parser.add_argument("--bound", type=float, default=1.5, help="of the median ratio")
    parser.add_argument("--template", type=Path, default=TEMPLATE)
    parser.add_argument("--folder", type=Path, default=IN_MEMORY, help="to render in")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        empty = make_empty_template(folder / "empty")
        pairs = [
            (seconds_of(options.template, folder), seconds_of(empty, folder))
            for _ in range(options.pairs + 1)
        ][1:]
    template_seconds, empty_seconds = zip(*pairs, strict=True)
    ratios = [this / other for this, other in pairs]
    place = options.folder or tempfile.gettempdir()
    print(f"{len(pairs)} pairs in {place} after one to warm up, Python {sys.version.split()[0]}")
    print_row("template, s", template_seconds)
    print_row("empty template, s", empty_seconds)
    print_row("ratio of a pair", ratios)
    if statistics.median(ratios) > options.bound:
        sys.exit(f"the median ratio is over {options.bound}")


def make_empty_template(folder: Path) -> Path:
    """Return a template that renders one folder with one empty file."""
    project = folder / "{{cookiecutter.project_slug}}"
    project.mkdir(parents=True)
    (project / "README.md").touch()
    settings = json.dumps({"project_slug": "my-run"})
    (folder / "cookiecutter.json").write_text(settings, encoding="utf-8")
    return folder


def seconds_of(template: Path, folder: Path) -> float:
    """Return how long cookiecutter takes to render a template with its defaults."""
    # Each in a folder of its own: a deletion slows what comes after it.
    output = tempfile.mkdtemp(dir=folder)
    command = [sys.executable, "-m", "cookiecutter", "--default-config", "--no-input"]
    # Replays are kept in the home folder.
    environment = os.environ | {"HOME": str(folder), "USERPROFILE": str(folder)}
    start = time.perf_counter()
    subprocess.run(
        [*command, "--output-dir", output, str(template)],
        check=True,
        stdout=subprocess.DEVNULL,
        env=environment,
    )
    return time.perf_counter() - start


def print_row(name: str, values: list[float] | tuple[float, ...]) -> None:
    """Print the least, the median and the greatest value."""
    print(
        f"{name:18} min {min(values):.3f}  median {statistics.median(values):.3f}"
        f"  max {max(values):.3f}"
    )


if __name__ == "__main__":
    main()
