"""Rendering the template as a person would, away from that person's own settings."""

import itertools
import json
import os
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

TEMPLATE = Path(__file__).parents[1]
PROJECT_TEMPLATE = TEMPLATE / "{{cookiecutter.project_slug}}"
CHOICES = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))

LICENSES, CI_SERVICES, STARTERS = CHOICES["license"], CHOICES["ci"], CHOICES["starter"]
# Every combination of the choices, with and without the one answer that may be empty.
ANSWER_SETS = [
    {"license": license_name, "ci": ci, "starter": starter, "author_email": email}
    for license_name, ci, starter, email in itertools.product(
        LICENSES, CI_SERVICES, STARTERS, ["", "ada@example.org"]
    )
]


def render(output: Path, answers: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter in `output` with these answers, verbatim, and defaults for the others.

    Cookiecutter reads answers on the command line as Jinja: each is given as a Jinja string, which
    renders to exactly what a person would have typed at the prompt.
    """
    typed = [
        # A choice is looked up in its list as it stands.
        f"{name}={text if isinstance(CHOICES[name], list) else jinja_string(text)}"
        for name, text in answers.items()
    ]
    return run_cookiecutter(output, "--no-input", str(TEMPLATE), *typed)


def jinja_string(text: str) -> str:
    """Return the Jinja expression that renders to this text."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


def run_cookiecutter(
    output: Path, *arguments: str, typed: str = ""
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter so that it neither reads nor writes anything outside `output`."""
    output.mkdir(parents=True, exist_ok=True)
    settings = output.with_name(output.name + "-settings")
    settings.mkdir(exist_ok=True)
    config = settings / "config.yaml"
    folders = {"cookiecutters_dir": str(settings), "replay_dir": str(settings)}
    config.write_text(json.dumps(folders), encoding="utf-8")
    return subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", "--config-file", str(config)),
            *("--output-dir", str(output), *arguments),
        ],
        input=typed,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(),
        timeout=120,
    )


def clean_environment() -> dict[str, str]:
    """Return an environment in which git knows no user, and no repository but the one it is in."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    return environment | {
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "PYTHONUTF8": "1",
    }


def files_under(folder: Path) -> set[str]:
    """Return the paths of all files under a folder, but for git's and for caches of tools."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    others = re.compile(r"(^|.*/)(\.git|__pycache__|\.[a-z]+_cache)/")
    return {path.as_posix() for path in paths if not others.match(path.as_posix())}
