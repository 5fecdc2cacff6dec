"""A project rendered from an older commit of the template, and worked on since, is updated."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .rendering import PROJECT_TEMPLATE, clean_environment, copy_template, git

ANSWERS = {
    "project_name": "Ünïcödé 'Runs' \U0001f389",
    # A name that is not the template's own.
    "project_slug": "big-digits",
    "description": 'It "says" \\n: [x] <b> 100 %',
    "author_name": 'O\'Neill, "Ada"',
    "author_email": "ada@example.org",
    "ci": "gitlab",
    "license": "Apache-2.0",
}
USERS_FILES = ["data.py", "model.py"]


def cruft(folder: Path, *arguments: str) -> str:
    """Run cruft in a folder, away from the settings of who runs the tests."""
    home = folder / ".git" / "home" if (folder / ".git").exists() else folder
    home.mkdir(exist_ok=True)
    result = subprocess.run(
        [sys.executable, "-m", "cruft", *arguments],
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        env=clean_environment() | {"HOME": str(home), "USERPROFILE": str(home), "COLUMNS": "200"},
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    return result.stdout + result.stderr


def commit(repository: Path) -> None:
    git(repository, "add", "--all")
    git(repository, "commit", "--quiet", "--message", "Change")


def change(path: Path, old: str, new: str) -> None:
    text = path.read_text(encoding="utf-8")
    assert text.count(old) == 1, (path, old)
    path.write_text(text.replace(old, new), encoding="utf-8", newline="\n")


@pytest.fixture
def template(tmp_path: Path) -> Path:
    """A repository that holds the template in one commit."""
    folder = copy_template(tmp_path / "template").parent
    git(folder, "init", "--quiet", "--initial-branch", "main")
    commit(folder)
    return folder


@pytest.fixture
def project(template: Path, tmp_path: Path) -> Path:
    """A project that cruft made, committed as the hook says."""
    output = tmp_path / "work"
    output.mkdir()
    printed = cruft(
        output,
        *("create", "--default-config", "--no-input", "--extra-context", json.dumps(ANSWERS)),
        str(template),
    )
    assert "Commit the project with its .cruft.json" in printed
    project = output / "big-digits"
    assert not (project / ".git").exists()
    git(project, "init", "--quiet")
    commit(project)
    return project


def test_an_update_brings_the_templates_changes_and_keeps_the_users(
    template: Path, project: Path
) -> None:
    package = project / "src" / "big_digits"
    for name in USERS_FILES:
        path = package / name
        path.write_text(path.read_text(encoding="utf-8") + "\n\nMINE = 1\n", encoding="utf-8")
    for path in (project / "tests" / "test_exact.py", project / "launch" / "one_gpu.yaml"):
        path.write_text(path.read_text(encoding="utf-8") + "\n\n# My own line.\n", encoding="utf-8")
    (package / "mine.py").write_text('"""My own module."""\n', encoding="utf-8")
    change(project / "README.md", "# Ünïcödé 'Runs' \U0001f389\n", "# My own title\n")
    (project / "noxfile.py").unlink()
    commit(project)

    [package_template] = (template / PROJECT_TEMPLATE.name / "src").iterdir()
    project_template = template / PROJECT_TEMPLATE.name
    starter = project_template / "starters" / "vision"
    for name in USERS_FILES:
        path = starter / name
        path.write_text("# Newer.\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    change(project_template / "README.md", "## Start\n", "## Start here\n")
    change(project_template / "noxfile.py", "import nox\n\n", "import nox\n\n# Newer.\n")
    change(project_template / "pyproject.toml", "timeout = 300", "timeout = 600")
    (package_template / "newer.py").write_text('"""A new module."""\n', encoding="utf-8")
    for name in ("tests/test_exact.py", "launch/one_gpu.yaml"):
        text = (project_template / name).read_text(encoding="utf-8")
        (project_template / name).write_text(f"# Newer, of my_run.\n{text}", encoding="utf-8")
    (project_template / "tests" / "test_config.py").unlink()
    commit(template)

    cruft(project, "update", "--skip-apply-ask")
    assert list(project.rglob("*.rej")) == []
    assert "UU" not in git(project, "status", "--porcelain")
    for name in USERS_FILES:
        updated = (package / name).read_text(encoding="utf-8")
        assert updated.startswith("# Newer.\n")
        assert updated.endswith("MINE = 1\n")
    for name in ("tests/test_exact.py", "launch/one_gpu.yaml"):
        updated = (project / name).read_text(encoding="utf-8")
        assert updated.startswith("# Newer, of big_digits.\n")
        assert updated.endswith("# My own line.\n")
    readme = (project / "README.md").read_text(encoding="utf-8")
    assert readme.startswith("# My own title\n")
    assert "## Start here\n" in readme
    assert "timeout = 600" in (project / "pyproject.toml").read_text(encoding="utf-8")
    assert (package / "newer.py").exists()
    assert (package / "mine.py").exists()
    assert not (project / "tests" / "test_config.py").exists()
    # What the user removed stays away.
    assert not (project / "noxfile.py").exists()
    assert ".github" not in {path.name for path in project.iterdir()}
    state = json.loads((project / ".cruft.json").read_text(encoding="utf-8"))
    assert state["commit"] == git(template, "rev-parse", "HEAD")
    for command in (["check"], ["format", "--check"]):
        subprocess.run(
            [sys.executable, "-m", "ruff", *command, "--no-cache"],
            cwd=project,
            check=True,
            timeout=60,
        )


def test_a_change_of_the_same_lines_is_a_conflict_that_git_shows(
    template: Path, project: Path
) -> None:
    data = project / "src" / "big_digits" / "data.py"
    first_line = data.read_text(encoding="utf-8").splitlines()[0]
    change(data, first_line, '"""Mine."""')
    commit(project)
    starter = template / PROJECT_TEMPLATE.name / "starters" / "vision"
    change(starter / "data.py", first_line, '"""Theirs."""')
    commit(template)
    cruft(project, "update", "--skip-apply-ask")
    assert git(project, "diff", "--name-only", "--diff-filter=U") == "src/big_digits/data.py"
    merged = data.read_text(encoding="utf-8")
    assert '<<<<<<< ours\n"""Mine."""\n=======\n"""Theirs."""\n>>>>>>> theirs\n' in merged


def test_an_update_without_news_changes_nothing(template: Path, project: Path) -> None:
    assert "already up to date" in cruft(project, "update", "--skip-apply-ask")
    (template / "NOTES").touch()
    commit(template)
    cruft(project, "update", "--skip-apply-ask")
    assert git(project, "status", "--porcelain") == "M .cruft.json"


def test_a_project_that_cookiecutter_made_is_linked_and_updated(
    template: Path, tmp_path: Path
) -> None:
    settings = tmp_path / "settings"
    settings.mkdir()
    subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", "--default-config", "--no-input"),
            *("--output-dir", str(tmp_path), str(template)),
        ],
        check=True,
        capture_output=True,
        env=clean_environment() | {"HOME": str(settings), "USERPROFILE": str(settings)},
    )
    project = tmp_path / "my-run"
    cruft(project, "link", "--no-input", str(template))
    commit(project)
    change(
        template / PROJECT_TEMPLATE.name / "pyproject.toml",
        "timeout = 300",
        "timeout = 600",
    )
    commit(template)
    cruft(project, "update", "--skip-apply-ask")
    assert "timeout = 600" in (project / "pyproject.toml").read_text(encoding="utf-8")


def test_a_project_keeps_a_name_that_the_template_has_come_to_need(
    template: Path, project: Path
) -> None:
    change(template / "checked_answers.py", '["conftest",', '["big_digits", "conftest",')
    commit(template)
    # Cruft loads the checks of the older commit: only a second update meets the stricter ones.
    for timeout in (600, 900):
        change(
            template / PROJECT_TEMPLATE.name / "pyproject.toml",
            f"timeout = {timeout - 300}",
            f"timeout = {timeout}",
        )
        commit(template)
        cruft(project, "update", "--skip-apply-ask")
        commit(project)
        assert f"timeout = {timeout}" in (project / "pyproject.toml").read_text(encoding="utf-8")


def test_a_question_that_the_template_drops_is_not_missed(template: Path, project: Path) -> None:
    change(
        template / "cookiecutter.json", '  "author_email": "{{ cookiecutter | checked }}",\n', ""
    )
    hook = template / "hooks" / "post_gen_project.py"
    change(hook, 'ANSWERS["author_email"] or "author@localhost"', '"author@localhost"')
    pyproject = template / PROJECT_TEMPLATE.name / "pyproject.toml"
    text = pyproject.read_text(encoding="utf-8")
    email = re.compile(r"#% if cookiecutter\.author_email.*?#% endif\n", re.DOTALL)
    pyproject.write_text(email.sub("", text), encoding="utf-8")
    commit(template)
    cruft(project, "update", "--skip-apply-ask")
    assert "ada@example.org" not in (project / "pyproject.toml").read_text(encoding="utf-8")
