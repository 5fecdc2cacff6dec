"""What the template's own files say of each other."""

import itertools
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable
from pathlib import Path

import nox
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import checked_answers

from .rendering import ANSWER_SETS, CHOICES, LONG, PROJECT_TEMPLATE, TEMPLATE

README = (TEMPLATE / "README.md").read_text(encoding="utf-8")
TEST_COMMAND = "python -m pip install nox && python -m nox -s tests"


def test_ci_runs_the_test_command_of_the_readme() -> None:
    script = (TEMPLATE / ".ci" / "run").read_text(encoding="utf-8")
    assert TEST_COMMAND in README
    assert [line for line in script.splitlines() if line.startswith("python -m pip")] == []
    assert script.count(TEST_COMMAND) == 1
    # And then, where they can run, those that need root.
    assert re.findall(r"-m nox -s (.*?)[;|]", script.replace(" 2>&1", "")) == [
        "tests",
        "cluster -- --where-possible ",
    ]


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
        assert "permissions" not in job
    assert workflow["permissions"] == {"contents": "read"}


def test_the_workflows_use_the_same_actions_and_leave_no_token_behind() -> None:
    used = []
    for root in (TEMPLATE, PROJECT_TEMPLATE):
        text = (root / ".github" / "workflows" / "tests.yml").read_text(encoding="utf-8")
        [job] = yaml.safe_load(text)["jobs"].values()
        checkout, python = [step for step in job["steps"] if "uses" in step]
        assert checkout["with"] == {"persist-credentials": False}
        used.append((checkout["uses"], python["uses"]))
    # The current majors, as of November 2026.
    assert used == [("actions/checkout@v7", "actions/setup-python@v7")] * 2


def test_every_requirement_has_a_pin() -> None:
    text = (TEMPLATE / "constraints.txt").read_text(encoding="utf-8")
    pairs = re.findall(r"^([\w.-]+)==(\S+)$", text, re.MULTILINE)
    pins = {canonicalize_name(name): pin for name, pin in pairs}
    for requirements in (requirements_of(TEMPLATE), requirements_of(PROJECT_TEMPLATE)):
        bounded = [requirement for requirement in requirements if requirement.specifier]
        assert bounded
        for requirement in bounded:
            # The project pins ruff itself: that is the version that these tests check it with.
            assert requirement.specifier.contains(pins[canonicalize_name(requirement.name)])


def test_the_extra_for_onnx_is_among_what_development_needs() -> None:
    """The project's tests export; a group cannot include an extra, so that both have a list."""
    table = nox.project.load_toml(PROJECT_TEMPLATE / "pyproject.toml")
    assert set(table["project"]["optional-dependencies"]["onnx"]) < set(
        nox.project.dependency_groups(table, "dev")
    )


@pytest.mark.parametrize("root", [TEMPLATE, PROJECT_TEMPLATE], ids=["template", "project"])
def test_the_noxfile_runs_as_a_script_with_the_nox_of_its_group(root: Path) -> None:
    header = nox.project.load_toml(root / "noxfile.py")
    [needed] = header["dependencies"]
    assert needed in {str(requirement) for requirement in requirements_of(root)}
    project = tomllib.loads((PROJECT_TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    assert header["requires-python"] == project["project"]["requires-python"]
    listed = subprocess.run(
        [sys.executable, "noxfile.py", "--list"],
        cwd=root,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert "* lint" in listed.stdout and "* tests" in listed.stdout, listed.stderr


def requirements_of(root: Path) -> list[Requirement]:
    """Return what a pyproject.toml requires in all: dependencies, extras and groups."""
    table = nox.project.load_toml(root / "pyproject.toml")
    project = table.get("project", {"dependencies": [], "optional-dependencies": {}})
    extras = itertools.chain.from_iterable(project["optional-dependencies"].values())
    groups = nox.project.dependency_groups(table, *table["dependency-groups"])
    return [Requirement(text) for text in (*project["dependencies"], *extras, *groups)]


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
    requirements = [*requirements_of(TEMPLATE), *requirements_of(PROJECT_TEMPLATE)]
    names = {requirement.name for requirement in requirements}
    assert {"scikit-learn", "trackio", "hatchling", "types-PyYAML", "pre-commit"} <= names
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


def test_each_figure_of_the_readmes_table_stands_where_its_row_links() -> None:
    rows = re.findall(r"^\| [^|]+ \| `nox -s \w+` \| ([^|]+) \|$", README, re.MULTILINE)
    below = README.split("Exact sums cost", 1)[1].split("\n", 1)[0].split("All figures", 1)[0]
    assert len(rows) >= 9
    linked = [text for text in (*rows, below) if "](" in text]
    assert len(linked) >= 9
    for text in linked:
        [target] = set(re.findall(r"\]\(([^)]+)\)", text))
        source = (TEMPLATE / target).read_text(encoding="utf-8")
        for figure in re.findall(r"\d[\d.,]*(?:e-\d+)?(?<![.,])", text.split("](")[0]):
            assert re.search(rf"(?<![\d.,]){re.escape(figure)}(?![\d.,]*\d)", source), (
                text,
                figure,
            )
