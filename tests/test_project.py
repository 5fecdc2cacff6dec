"""The rendered project at work: its types, its own tests, and the program from its wheel."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from checked_answers import slug_fault

from .rendering import STARTERS, TEMPLATE, render
from .test_build import build

pytestmark = pytest.mark.torch


def run(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a Python program in a folder, with output that a failing test shows."""
    result = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        env=os.environ | environment,
    )
    assert result.returncode == 0, result.stdout[-8000:]
    return result


@pytest.mark.parametrize("platform", ["linux", "darwin", "win32"])
def test_mypy_strict_finds_nothing_on_any_system(platform: str, default_project: Path) -> None:
    assert_types_are_sound(default_project, "--platform", platform)


@pytest.mark.parametrize("starter", STARTERS[1:])
def test_the_types_and_the_own_tests_of_another_starter(
    starter: str, starter_projects: dict[str, Path]
) -> None:
    """The other tests are the same bytes, and so is what they test."""
    assert_types_are_sound(starter_projects[starter])
    files = ["tests/test_starter.py", "tests/test_data_and_model.py", "tests/test_architecture.py"]
    assert_own_tests_pass(starter_projects[starter], *files)


def test_the_projects_own_tests_all_pass(default_project: Path) -> None:
    assert_own_tests_pass(default_project)


def test_the_commands_for_agents_are_right(default_project: Path) -> None:
    text = (default_project / "AGENTS.md").read_text(encoding="utf-8")
    commands = re.findall(r"`python (-m my_run\.[^`]+)`", text)
    assert commands
    for command in commands:
        sources = str(default_project / "src")
        shown = run(default_project, *command.split(), "--plan", PYTHONPATH=sources).stdout
        assert re.search(r"Steps +20 optimizer steps", shown), shown


def test_the_program_from_the_wheel_trains_and_tests(tmp_path: Path) -> None:
    assert render(tmp_path / "out", {"project_slug": "wheel-run"}).returncode == 0
    assert_wheel_trains(tmp_path / "out" / "wheel-run", tmp_path)


# Python runs a module of this name at its start.
SITECUSTOMIZE = '''
import os, sys

class Recorder:
    """Note each module that is asked for by its whole name, whether there is one or not."""

    def find_spec(self, name, path=None, target=None):
        if path is None:
            with open(os.environ["RECORDED_IMPORTS"], "a") as file:
                file.write(name + "\\n")

sys.meta_path.insert(0, Recorder())
'''


@pytest.mark.parametrize("starter", STARTERS)
def test_no_module_that_the_programs_ask_for_may_be_a_projects_name(
    starter: str, starter_projects: dict[str, Path], tmp_path: Path
) -> None:
    project = starter_projects[starter]
    recorded = tmp_path / "recorded"
    (tmp_path / "sitecustomize.py").write_text(SITECUSTOMIZE, encoding="utf-8")
    folder = str(tmp_path / "run")
    settings = ["--max-steps", "2", "--tracker", "tensorboard", "--run-dir", folder]
    for command in (
        ["-m", "my_run.train", *settings],
        ["-m", "accelerate.commands.accelerate_cli", "launch", "--help"],
        ["-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"],
    ):
        paths = os.pathsep.join([str(tmp_path), str(project / "src")])
        run(project, *command, PYTHONPATH=paths, RECORDED_IMPORTS=str(recorded))
    names = set(recorded.read_text(encoding="utf-8").split()) - {"my_run", "sitecustomize"}
    assert {"torch", "google", "tensorflow"} <= names
    allowed = {name for name in names if slug_fault(name.replace("_", "-")) is None}
    assert allowed == set(), "add these to needed_names.txt"


def assert_types_are_sound(project: Path, *options: str) -> None:
    # torch alone takes half a minute to read: what is known of it is kept from run to run.
    # One for each process of pytest: two mypys that write to one fail, with an internal error.
    cache = TEMPLATE / ".mypy_cache" / f"rendered-{os.environ.get('PYTEST_XDIST_WORKER', 'alone')}"
    result = run(project, "-m", "mypy", "--cache-dir", str(cache), *options)
    assert "Success: no issues found" in result.stdout
    assert "unused section" not in result.stdout


def assert_own_tests_pass(project: Path, *files: str) -> None:
    result = run(project, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider", *files)
    closing_line = result.stdout.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", closing_line), result.stdout
    # Nothing is skipped, expected to fail, or warned about.
    assert re.fullmatch(r"=+ \d+ passed in .*", closing_line), result.stdout[-8000:]


def assert_wheel_trains(project: Path, folder: Path) -> None:
    """Install a project's wheel, and train three steps with it where the project is not."""
    wheel, _ = build(project)
    site, elsewhere = folder / "site", folder / "elsewhere"
    elsewhere.mkdir()
    run(elsewhere, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel))
    settings = ["--max-steps", "3", "--run-dir", str(elsewhere / "run")]
    program = f"{project.name.replace('-', '_')}.train"
    run(elsewhere, "-m", program, *settings, PYTHONPATH=str(site))
    summary = json.loads((elsewhere / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["optimizer_steps"] == 3
    assert summary["test_samples"] > 0
