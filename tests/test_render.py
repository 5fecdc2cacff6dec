"""What every combination of choices renders."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from .rendering import CHOICES, PROJECT_TEMPLATE, TEMPLATE, files_under, render, run_cookiecutter

FILES = """
    .gitattributes
    .gitignore
    LICENSE
    README.md
    launch/all_gpus.yaml
    launch/cpu_two_processes.yaml
    launch/fsdp2.yaml
    launch/one_gpu.yaml
    launch/two_machines.yaml
    noxfile.py
    pyproject.toml
    src/my_run/__init__.py
    src/my_run/accelerated.py
    src/my_run/checkpoint.py
    src/my_run/checkpoint_writer.py
    src/my_run/config.py
    src/my_run/data.py
    src/my_run/devices.py
    src/my_run/environment.py
    src/my_run/evaluate.py
    src/my_run/exact.py
    src/my_run/figures.py
    src/my_run/files.py
    src/my_run/finite.py
    src/my_run/loaders.py
    src/my_run/metrics.py
    src/my_run/metrics_file.py
    src/my_run/model.py
    src/my_run/optimizer.py
    src/my_run/plan.py
    src/my_run/predict.py
    src/my_run/reference/__init__.py
    src/my_run/reference/data_parallel.py
    src/my_run/reference/ddp.py
    src/my_run/reference/fsdp2.py
    src/my_run/reference/processes.py
    src/my_run/reference/single.py
    src/my_run/report.py
    src/my_run/resume.py
    src/my_run/results.py
    src/my_run/run_folder.py
    src/my_run/sampling.py
    src/my_run/schedule.py
    src/my_run/stopping.py
    src/my_run/tables.py
    src/my_run/trackers.py
    src/my_run/train.py
    src/my_run/training_state.py
    src/my_run/weights.py
    tests/__init__.py
    tests/conftest.py
    tests/launching.py
    tests/test_checkpoint.py
    tests/test_config.py
    tests/test_data_and_model.py
    tests/test_data_parallel.py
    tests/test_devices.py
    tests/test_exact.py
    tests/test_launch.py
    tests/test_placement.py
    tests/test_references.py
    tests/test_resume.py
    tests/test_sampling.py
    tests/test_schedule_and_optimizer.py
    tests/test_train.py
""".split()
CI_FILES = {"github": [".github/workflows/tests.yml"], "gitlab": [".gitlab-ci.yml"], "none": []}

LICENSE_WORDS = {
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "BSD-3-Clause": "Neither the name of the copyright holder nor the names of its",
    "Apache-2.0": "Version 2.0, January 2004",
    "Proprietary": "All rights reserved",
}


def test_the_files_are_exactly_those_of_the_list(project: Path, answers: dict[str, str]) -> None:
    assert files_under(project) == {*FILES, *CI_FILES[answers["ci"]]}


def test_no_folder_is_empty(project: Path) -> None:
    folders = [path for path in project.rglob("*") if path.is_dir() and ".git" not in path.parts]
    assert [folder for folder in folders if not any(folder.iterdir())] == []


def test_no_trace_of_the_template_is_left(project: Path) -> None:
    for name in files_under(project):
        text = (project / name).read_text(encoding="utf-8").replace("${{ matrix.python }}", "")
        assert re.findall(r"\{\{|\{%|\{#|#%|cookiecutter", text) == [], name


def test_every_file_ends_in_one_newline_and_has_no_trailing_space(project: Path) -> None:
    for name in files_under(project):
        text = (project / name).read_bytes().decode("utf-8")
        # A package's __init__.py may be empty.
        assert not text or re.search(r"[^\n]\n\Z", text), name
        assert re.findall(r"[ \t]+\n|\r", text) == [], name


def test_the_sources_are_byte_for_byte_those_of_the_template(default_project: Path) -> None:
    [package] = (PROJECT_TEMPLATE / "src").iterdir()
    names = {name for name in files_under(package) if name.endswith(".py")}
    assert names == {
        name for name in files_under(default_project / "src" / "my_run") if name.endswith(".py")
    }
    for name in names:
        rendered = default_project / "src" / "my_run" / name
        assert rendered.read_bytes() == (package / name).read_bytes(), name


def test_the_unrendered_toml_and_yaml_files_parse() -> None:
    names = [name for name in files_under(PROJECT_TEMPLATE) if name.endswith((".yml", ".yaml"))]
    assert names
    for name in names:
        assert yaml.safe_load((PROJECT_TEMPLATE / name).read_text(encoding="utf-8")), name
    toml = tomllib.loads((PROJECT_TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    assert toml["project"]["dependencies"]


def test_the_rendered_yaml_files_parse(project: Path) -> None:
    for name in files_under(project):
        if name.endswith((".yml", ".yaml")):
            assert yaml.safe_load((project / name).read_text(encoding="utf-8")), name


def test_licence_file_and_metadata_name_the_chosen_licence(
    project: Path, answers: dict[str, str]
) -> None:
    text = (project / "LICENSE").read_text(encoding="utf-8")
    named = [name for name, words in LICENSE_WORDS.items() if words in text]
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert named == [answers["license"]]
    assert metadata["license"].removeprefix("LicenseRef-") == answers["license"]
    # Apache's text stands without a name: the file says how a notice is added to each source.
    assert ("The My Run authors" in text) == (answers["license"] != "Apache-2.0")


def test_an_empty_email_leaves_no_empty_entry(project: Path, answers: dict[str, str]) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    author = {"name": "The My Run authors"}
    if answers["author_email"]:
        author["email"] = answers["author_email"]
    assert metadata["authors"] == [author]


def test_ruff_finds_nothing_to_change(project: Path) -> None:
    for command in (["check"], ["format", "--check", "--diff"]):
        result = subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache"],
            cwd=project,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert result.returncode == 0, result.stdout + result.stderr


def test_every_source_compiles(default_project: Path) -> None:
    for path in default_project.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize(
    "slug", ["x", "zz-top", "a-name-of-just-the-fifty-characters-that-may-be-us"]
)
def test_lint_does_not_depend_on_the_length_or_order_of_the_name(slug: str, tmp_path: Path) -> None:
    assert render(tmp_path / "out", {"project_slug": slug}).returncode == 0
    test_ruff_finds_nothing_to_change(tmp_path / "out" / slug)


def test_pressing_enter_at_every_question_renders_the_defaults(
    default_project: Path, tmp_path: Path
) -> None:
    questions = [name for name in CHOICES if not name.startswith("_")]
    result = run_cookiecutter(tmp_path / "out", str(TEMPLATE), typed="\n" * len(questions))
    assert result.returncode == 0, result.stderr
    for name in files_under(default_project):
        typed = tmp_path / "out" / "my-run" / name
        assert typed.read_bytes() == (default_project / name).read_bytes(), name


def test_every_question_has_a_sentence() -> None:
    questions = [name for name in CHOICES if not name.startswith("_")]
    assert list(CHOICES["__prompts__"]) == questions
    assert all(sentence.endswith("?") for sentence in CHOICES["__prompts__"].values())
