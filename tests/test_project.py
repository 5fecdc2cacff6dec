"""The rendered project at work: its types, its own tests, and the program from its wheel."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .rendering import TEMPLATE, render
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
        timeout=500,
    )
    assert result.returncode == 0, result.stdout[-8000:]
    return result


def test_mypy_strict_finds_nothing(default_project: Path) -> None:
    # torch alone takes half a minute to read: what is known of it is kept from run to run.
    cache = TEMPLATE / ".mypy_cache" / "rendered"
    result = run(default_project, "-m", "mypy", "--cache-dir", str(cache))
    assert "Success: no issues found" in result.stdout
    assert "unused section" not in result.stdout


def test_the_projects_own_tests_all_pass(default_project: Path) -> None:
    result = run(default_project, "-m", "pytest", "-n", "2", "-p", "no:cacheprovider")
    closing_line = result.stdout.strip().splitlines()[-1]
    assert re.search(r"\d+ passed", closing_line), result.stdout
    # Nothing is skipped, expected to fail, or warned about.
    assert re.fullmatch(r"=+ \d+ passed in .*", closing_line), result.stdout[-8000:]


def test_the_program_from_the_wheel_trains_and_tests(tmp_path: Path) -> None:
    assert render(tmp_path / "out", {"project_slug": "wheel-run"}).returncode == 0
    wheel, _ = build(tmp_path / "out" / "wheel-run")
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    run(elsewhere, "-m", "pip", "install", "--no-deps", "--target", str(site), str(wheel))
    settings = ["--max-steps", "3", "--run-dir", str(elsewhere / "run")]
    run(elsewhere, "-m", "wheel_run.train", *settings, PYTHONPATH=str(site))
    summary = json.loads((elsewhere / "run" / "summary.json").read_text(encoding="utf-8"))
    assert summary["optimizer_steps"] == 3
    assert summary["test_samples"] > 0
