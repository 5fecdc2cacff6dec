"""Rendering the template as a person would, away from that person's own settings."""

import contextlib
import io
import itertools
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from unittest import mock

import cookiecutter.main

TEMPLATE = Path(__file__).parents[1]
PROJECT_TEMPLATE = TEMPLATE / "{{cookiecutter.project_slug}}"
CHOICES = json.loads((TEMPLATE / "cookiecutter.json").read_text(encoding="utf-8"))

QUESTIONS = [name for name in CHOICES if not name.startswith("_")]
LICENSES, CI_SERVICES, STARTERS = CHOICES["license"], CHOICES["ci"], CHOICES["starter"]
# What git knows of the user: nothing.
GIT_SETTINGS = os.devnull
# Answers in words, once as short as they come and once as long and awkward as they may be.
SHORT: dict[str, str] = {}
LONG = {
    "project_name": "\"Long\" 'n\u00e4me' \\ \U0001f389 " + "{{ long }} " * 7 + "x",
    "project_slug": "a-name-of-just-the-fifty-characters-that-may-be-us",
    "description": 'A <long> & "awkward" \\ *sentence*: ' + "# {0} [long] " * 20 + "x.",
    "author_name": 'O\'Neill, "Ada" (and others), ' + "M\u00fcller and Sons; " * 8 + "Ltd.",
}
# Every combination of the choices and of these, with and without the answer that may be empty.
ANSWER_SETS = {
    "-".join([starter, license_name, ci, "email" if email else "no_email", length]): {
        "starter": starter,
        "license": license_name,
        "ci": ci,
        "author_email": email,
        **words,
    }
    for starter, license_name, ci, email, (length, words) in itertools.product(
        STARTERS,
        LICENSES,
        CI_SERVICES,
        ["", "o'neill+runs@mail.example.org"],
        [("short", SHORT), ("long", LONG)],
    )
}


def render(output: Path, answers: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter in `output` with these answers, verbatim, and defaults for the others.

    Cookiecutter reads answers on the command line as Jinja: each is given as a Jinja string, which
    renders to exactly what a person would have typed at the prompt.
    """
    typed = ["=".join(jinja_answer(item)) for item in answers.items()]
    return run_cookiecutter(output, "--no-input", str(TEMPLATE), *typed)


def render_in_process(output: Path, answers: Mapping[str, str], *, typed: bool = False) -> None:
    """Render as `render` does, without a process of its own; a refusal raises SystemExit.

    Args:
        output: The folder for the project.
        answers: Verbatim; defaults for the others.
        typed: Give the answers at the prompts, where one cannot type a line break.
    """
    lines = [typed_line(name, answers[name]) if name in answers else "" for name in QUESTIONS]
    with (
        mock.patch.dict(os.environ, clean_environment(), clear=True),
        mock.patch.object(sys, "stdin", io.StringIO("\n".join([*lines, ""]))),
        contextlib.redirect_stdout(io.StringIO()),
    ):
        cookiecutter.main.cookiecutter(
            str(TEMPLATE),
            no_input=not typed,
            extra_context=None if typed else dict(map(jinja_answer, answers.items())),
            output_dir=str(output),
            config_file=str(settings_for(output)),
        )


def typed_line(name: str, answer: str) -> str:
    """Return what a person types to give this answer: the number of a choice, any other text."""
    options = CHOICES[name]
    return str(options.index(answer) + 1) if isinstance(options, list) else answer


def jinja_answer(item: tuple[str, str]) -> tuple[str, str]:
    """Return a name and an answer that cookiecutter's rendering makes the given one."""
    name, answer = item
    # A choice is looked up in its list as it stands.
    return name, answer if isinstance(CHOICES[name], list) else jinja_string(answer)


def jinja_string(text: str) -> str:
    """Return the Jinja expression that renders to this text."""
    return "{{ " + json.dumps(text, ensure_ascii=False) + " }}"


def run_cookiecutter(
    output: Path,
    *arguments: str,
    typed: str = "",
    defaults: Mapping[str, object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[str]:
    """Run cookiecutter so that it neither reads nor writes anything outside `output`.

    Args:
        output: The folder for the project.
        arguments: Of cookiecutter's command line.
        typed: What a person types.
        defaults: Answers in the person's settings file.
        environment: Variables beside those of a clean environment.
    """
    config = str(settings_for(output, defaults))
    return subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", "--config-file", config),
            *("--output-dir", str(output), *arguments),
        ],
        input=typed,
        capture_output=True,
        encoding="utf-8",
        env={**clean_environment(), **(environment or {})},
        timeout=120,
    )


def copy_template(folder: Path) -> Path:
    """Copy what cookiecutter reads of the template, for a test to change; return its project."""
    ignored = shutil.ignore_patterns("__pycache__", ".*_cache")
    for name in ("hooks", "templates", PROJECT_TEMPLATE.name):
        shutil.copytree(TEMPLATE / name, folder / name, ignore=ignored)
    for name in ("cookiecutter.json", "checked_answers.py", "needed_names.txt"):
        shutil.copy(TEMPLATE / name, folder)
    return folder / PROJECT_TEMPLATE.name


def git(folder: Path, *arguments: str) -> str:
    """Run git in a folder as nobody in particular; return what it prints."""
    result = subprocess.run(
        ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(),
    )
    return result.stdout.strip()


def settings_for(output: Path, defaults: Mapping[str, object] | None = None) -> Path:
    """Make the folder `output`, and beside it one for what cookiecutter keeps; return its file."""
    output.mkdir(parents=True, exist_ok=True)
    settings = output.with_name(output.name + "-settings")
    settings.mkdir(exist_ok=True)
    config = settings / "config.yaml"
    folders = {"cookiecutters_dir": str(settings), "replay_dir": str(settings)}
    content = {**folders, "default_context": defaults or {}}
    config.write_text(json.dumps(content), encoding="utf-8")
    return config


def clean_environment() -> dict[str, str]:
    """Return an environment in which git knows no user, and no repository but the one it is in."""
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GIT_")}
    return environment | {
        "GIT_CONFIG_GLOBAL": GIT_SETTINGS,
        "GIT_CONFIG_SYSTEM": os.devnull,
        "PYTHONUTF8": "1",
    }


def files_under(folder: Path) -> set[str]:
    """Return the paths of all files under a folder, but for git's and for caches of tools."""
    paths = (path.relative_to(folder) for path in folder.rglob("*") if path.is_file())
    others = re.compile(r"(^|.*/)(\.git|__pycache__|\.[a-z]+_cache)/")
    return {path.as_posix() for path in paths if not others.match(path.as_posix())}
