"""What the template's own files say of each other."""

import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import checked_answers

from .rendering import ANSWER_SETS, CHOICES, LONG, PROJECT_TEMPLATE, TEMPLATE

README = (TEMPLATE / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "python -m pip install nox && python -m nox -s tests"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (TEMPLATE / ".ci" / "run").read_text(encoding="utf-8")
    assert TEST_COMMAND in README
    assert [line for line in script.splitlines() if line.startswith("python -m pip")] == []
    assert script.count(TEST_COMMAND) == 1
    assert script.count("-m nox") == 1


def test_every_link_of_the_readme_leads_to_a_file() -> None:
    for target in re.findall(r"\]\(([^)#]+)\)", README):
        assert (TEMPLATE / target).exists(), target


def test_the_readme_names_every_question() -> None:
    for question in (name for name in CHOICES if not name.startswith("_")):
        assert f"`{question}`" in README, question


def test_every_nox_session_of_the_readme_exists() -> None:
    sessions = re.findall(r"^def (\w+)\(session", (TEMPLATE / "noxfile.py").read_text(), re.M)
    named = re.findall(r"nox -s ['\"]?(\w+)", README)
    assert named
    assert set(named) <= set(sessions)


@pytest.mark.parametrize("root", [TEMPLATE, PROJECT_TEMPLATE], ids=["template", "project"])
def test_the_workflows_parse_and_run_nox(root: Path) -> None:
    [path] = (root / ".github" / "workflows").glob("*.yml")
    workflow = yaml.safe_load(path.read_text(encoding="utf-8"))
    for job in workflow["jobs"].values():
        assert any("nox" in step.get("run", "") for step in job["steps"])


def test_every_requirement_has_a_pin() -> None:
    pins = (TEMPLATE / "constraints.txt").read_text(encoding="utf-8")
    pinned = {name.lower() for name in re.findall(r"^([\w.-]+)==\S+$", pins, re.MULTILINE)}
    for root in (TEMPLATE, PROJECT_TEMPLATE):
        text = (root / "pyproject.toml").read_text(encoding="utf-8")
        required = set(re.findall(r'"([\w.-]+)>=[\d.]+"', text))
        assert required
        assert {name.lower() for name in required} <= pinned


def test_the_needed_names_are_in_order() -> None:
    text = (TEMPLATE / "needed_names.txt").read_text(encoding="utf-8")
    parts = [part.split("\n") for part in re.split(r"(?:^#.*\n)+", text, flags=re.MULTILINE)]
    nothing, *parts = [[line for line in part if line] for part in parts]
    assert nothing == []
    for part in parts:
        assert part == sorted(part)
    names = list(itertools.chain(*parts))
    by_hand, generated = parts
    assert len(set(names)) == len(names)
    assert [name for name in names if not re.fullmatch("[a-z][a-z0-9]*(_[a-z0-9]+)*", name)] == []
    assert set(names) == checked_answers.NEEDED
    assert {"habana_frameworks", "torch_npu"} <= set(by_hand)
    assert {"pil", "rich", "sklearn", "torch", "tyro", "yaml"} <= set(generated)


def test_every_requirement_is_refused_as_a_name() -> None:
    project = tomllib.loads((PROJECT_TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    template = tomllib.loads((TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    lists = [
        project["project"]["dependencies"],
        *project["project"]["optional-dependencies"].values(),
        *template["dependency-groups"].values(),
    ]
    names = {Requirement(text).name for text in itertools.chain(*lists)}
    assert {"scikit-learn", "trackio", "hatchling", "types-PyYAML"} <= names
    assert {re.sub("[-.]", "_", name).lower() for name in names} <= checked_answers.NEEDED


def test_the_matrix_that_nox_lists_holds_each_two_choices_together() -> None:
    listed = subprocess.run(
        [sys.executable, "-m", "nox", "--list"],
        cwd=TEMPLATE,
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    chosen = set(re.findall(r"^- matrix\((.*?)\)", listed.stdout, re.MULTILINE)) - {"all"}
    assert len(chosen) < len(ANSWER_SETS)

    def pairs_of(names: Iterable[str]) -> set[tuple[tuple[str, str], ...]]:
        return {
            pair
            for name in names
            for pair in itertools.combinations(
                ({"length": name.rpartition("-")[2]} | ANSWER_SETS[name]).items(), 2
            )
            # All words are long together.
            if not {question for question, _ in pair} & LONG.keys()
        }

    assert pairs_of(chosen) == pairs_of(ANSWER_SETS)
