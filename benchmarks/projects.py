"""Projects to measure."""

import subprocess
import sys
from pathlib import Path

TEMPLATE = Path(__file__).parents[1]


def render(starter: str, folder: Path) -> Path:
    """Render a project of a starter with the default answers into a folder; return its sources."""
    command = [sys.executable, "-m", "cookiecutter", "--default-config", "--no-input"]
    output = ["--output-dir", str(folder / starter), str(TEMPLATE), f"starter={starter}"]
    subprocess.run([*command, *output], check=True, stdout=subprocess.DEVNULL)
    return sources(starter, folder)


def sources(starter: str, folder: Path) -> Path:
    """Return the sources of the project of a starter in a folder."""
    return folder / starter / "my-run" / "src"
