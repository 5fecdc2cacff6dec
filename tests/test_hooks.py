"""Answers that are refused, awkward answers that are kept, and the first commit."""

import ast
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from .rendering import TEMPLATE, clean_environment, files_under, render, run_cookiecutter

REFUSED = [
    ("project_name", "", "is empty"),
    ("project_name", "n" * 101, "101 characters"),
    ("project_name", "two\nlines", "line break"),
    ("project_name", "bell\a", "control character"),
    ("description", "ends in a space ", "spaces at its ends"),
    ("description", "d" * 301, "301 characters"),
    ("author_name", "", "is empty"),
    ("author_name", "line\u2028separator", "line break"),
    ("author_email", "nobody", "no e-mail address"),
    ("author_email", "a@b", "no e-mail address"),
    ("author_email", "Ada <ada@example.org>", "no e-mail address"),
    ("author_email", 'ada"@example.org', "no e-mail address"),
    ("project_slug", "", "is empty"),
    ("project_slug", "s" * 51, "51 characters"),
    ("project_slug", "s" * 300, "300 characters"),
    ("project_slug", "My-Run", "try 'my-run'"),
    ("project_slug", "my_run", "try 'my-run'"),
    ("project_slug", "my--run", "try 'my-run'"),
    ("project_slug", "1st", "must begin with a letter"),
    ("project_slug", "../escaped", "try 'escaped'"),
    ("project_slug", "nested/folder", "try 'nested-folder'"),
    ("project_slug", "C:\\temp", "try 'c-temp'"),
    ("project_slug", ".", "try 'my-run'"),
    ("project_slug", "naïve", "try 'naive'"),
    ("project_slug", "two\nlines", "try 'two-lines'"),
    ("project_slug", "class", "word of the Python language"),
    ("project_slug", "logging", "Python's own module"),
    ("project_slug", "torch", "package that the project uses"),
    ("project_slug", "huggingface-hub", "package that the project uses"),
    ("project_slug", "scikit-learn", "package that the project uses"),
    ("project_slug", "tests", "for something else"),
    ("project_slug", "nul", "device on Windows"),
]

KEPT = [
    ("project_name", "Ünïcödé \U0001f389 & <Friends>"),
    ("project_name", "'quoted' \"twice\" \\ and `ticked`"),
    ("project_name", "# {{ 7 * 7 }} {% raw %} #% if"),
    ("description", 'It says "\\n": {key: [value]} %s {0} ${HOME} </script>'),
    ("description", '"""; raise SystemExit(3)  #'),
    ("description", "\u05e9\u05dc\u05d5\u05dd e\u0301 \U0001f469\u200d\U0001f4bb"),
    ("description", "''' \\"),
    ("author_name", 'O\'Neill, "Ada" \\ (and others)'),
    ("author_name", "- Müller: yes"),
    ("author_email", "o'neill+runs@mail.example.org"),
]


@pytest.mark.parametrize(("name", "answer", "fault"), REFUSED)
def test_a_bad_answer_is_refused_in_one_line_and_leaves_nothing_behind(
    name: str, answer: str, fault: str, tmp_path: Path
) -> None:
    output = tmp_path / "folder" / "out"
    result = render(output, {name: answer})
    # Cookiecutter adds its own traceback below.
    message = result.stderr.splitlines()[0]
    assert result.returncode != 0
    assert message.startswith(f"{name} (")
    assert fault in message
    assert files_under(tmp_path) == {"folder/out-settings/config.yaml", *replay_files(tmp_path)}
    assert sorted(path.name for path in output.parent.iterdir()) == ["out", "out-settings"]
    assert list(output.iterdir()) == []


def replay_files(folder: Path) -> set[str]:
    """Return what cookiecutter keeps of the answers, so that it could replay them."""
    return {path.relative_to(folder).as_posix() for path in folder.glob("*/out-settings/*.json")}


def test_every_pinned_distribution_is_refused_as_a_name() -> None:
    hook = ast.parse((TEMPLATE / "hooks" / "pre_gen_project.py").read_text(encoding="utf-8"))
    [words] = [
        node.value.value
        for node in ast.walk(hook)
        if isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Constant)
        and node.attr == "split"
    ]
    pins = (TEMPLATE / "constraints.txt").read_text(encoding="utf-8")
    names = re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)
    assert "torch" in names
    assert {re.sub("[-.]", "_", name).lower() for name in names} <= set(str(words).split())


@pytest.mark.parametrize(("name", "answer"), KEPT)
def test_an_awkward_answer_reads_back_exactly(name: str, answer: str, tmp_path: Path) -> None:
    result = render(tmp_path / "out", {name: answer, "project_slug": "my-run"})
    assert result.returncode == 0, result.stderr
    project = tmp_path / "out" / "my-run"
    toml = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    [author] = toml["project"]["authors"]
    if name == "project_name":
        assert author["name"] == f"The {answer} authors"
    elif name == "description":
        assert toml["project"]["description"] == answer
    else:
        assert author[name.removeprefix("author_")] == answer


def test_answers_typed_at_the_prompt_are_kept_as_they_are(tmp_path: Path) -> None:
    typed = ["My Run", "", '{{ 7 * 7 }} "quoted"', "", "", "", "", ""]
    result = run_cookiecutter(tmp_path / "out", str(TEMPLATE), typed="\n".join(typed) + "\n")
    assert result.returncode == 0, result.stderr
    text = (tmp_path / "out" / "my-run" / "pyproject.toml").read_text(encoding="utf-8")
    assert tomllib.loads(text)["project"]["description"] == '{{ 7 * 7 }} "quoted"'


def test_a_project_outside_every_repository_starts_with_one_commit(tmp_path: Path) -> None:
    answers = {"author_name": "Ada", "author_email": "ada@example.org"}
    result = render(tmp_path / "out", answers)
    project = tmp_path / "out" / "my-run"
    assert git(project, "log", "--format=%an <%ae>: %s") == (
        "Ada <ada@example.org>: Start from the template"
    )
    assert git(project, "status", "--porcelain") == ""
    assert "python -m my_run.train" in result.stdout


def test_a_project_inside_a_repository_gets_none_of_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    assert render(tmp_path / "out", {}).returncode == 0
    assert not (tmp_path / "out" / "my-run" / ".git").exists()


def test_a_commit_that_fails_is_said_and_fails_nothing(tmp_path: Path) -> None:
    # Git refuses a name that holds nothing but punctuation.
    result = render(tmp_path / "out", {"author_name": "<>"})
    assert result.returncode == 0, result.stderr
    assert "The first commit failed" in result.stdout


def test_a_machine_without_git_renders_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", os.devnull)
    result = render(tmp_path / "out", {})
    assert result.returncode == 0, result.stderr
    assert not (tmp_path / "out" / "my-run" / ".git").exists()


def test_a_path_that_the_template_lost_fails_the_rendering(tmp_path: Path) -> None:
    copy = tmp_path / "template"
    for name in ("hooks", "templates", "{{cookiecutter.project_slug}}"):
        shutil.copytree(TEMPLATE / name, copy / name)
    shutil.copy(TEMPLATE / "cookiecutter.json", copy)
    (copy / "{{cookiecutter.project_slug}}" / ".gitlab-ci.yml").unlink()
    result = run_cookiecutter(tmp_path / "out", "--no-input", str(copy))
    assert result.returncode != 0
    assert ".gitlab-ci.yml is named in the post_gen hook" in result.stderr.splitlines()[0]
    assert list((tmp_path / "out").iterdir()) == []


def git(folder: Path, *arguments: str) -> str:
    result = subprocess.run(
        ["git", *arguments],
        cwd=folder,
        check=True,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment(),
    )
    return result.stdout.strip()
