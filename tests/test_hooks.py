"""Refusals as a user meets them, answers that try to become code, and the first commit."""

import ast
import importlib.metadata
import json
import ntpath
import os
import posixpath
import re
import shlex
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from packaging.utils import canonicalize_name

import checked_answers

from .rendering import (
    TEMPLATE,
    clean_environment,
    copy_template,
    files_under,
    git,
    render,
    render_in_process,
    run_cookiecutter,
    settings_for,
)
from .soundness import FILES_WITH_WORDS, assert_sound

PROGRAMS = [TEMPLATE / "hooks" / "post_gen_project.py", TEMPLATE / "checked_answers.py"]

REFUSED = [
    ("project_name", "", "is empty; type at least one word"),
    ("project_name", "two\nlines", "holds a line break"),
    ("description", "d" * 301, "has 301 characters; the most is 300"),
    ("author_name", "ends in a space ", "has spaces at its ends; try 'ends in a space'"),
    ("author_email", "nobody", "is no e-mail address; try name@example.org"),
    ("project_slug", "../escaped", "hold lower-case words joined by single hyphens; try 'escaped'"),
    ("project_slug", "torch", "a package that the project uses; try 'torch-run'"),
    ("project_slug", "s" * 300, "has 300 characters; the most is 50"),
]


@pytest.mark.parametrize(("name", "answer", "fault"), REFUSED)
def test_a_refusal_is_one_line_and_leaves_nothing_behind(
    name: str, answer: str, fault: str, tmp_path: Path
) -> None:
    output = tmp_path / "folder" / "out"
    result = render(output, {name: answer})
    assert result.returncode == 1
    assert result.stdout == ""
    [line] = result.stderr.splitlines()
    assert line.startswith(f"{name} (")
    assert fault in line
    assert files_under(tmp_path) == {"folder/out-settings/config.yaml"}
    assert sorted(path.name for path in output.parent.iterdir()) == ["out", "out-settings"]
    assert list(output.iterdir()) == []


def test_a_name_that_would_make_a_bad_slug_gets_another(tmp_path: Path) -> None:
    for name, slug in (
        ("torch", "torch-run"),
        ("tests", "tests-run"),
        ("class", "class-run"),
        ("logging", "logging-run"),
        ("../escaped", "escaped"),
        ("NUL", "nul-run"),
        ("\U0001f389", "my-run"),
        ("2024: a study", "run-2024-a-study"),
        ("\u65e5\u672c\u8a9e", "ri-ben-yu"),
    ):
        result = render(tmp_path / slug, {"project_name": name})
        assert result.returncode == 0, result.stderr
        assert [path.name for path in (tmp_path / slug).iterdir()] == [slug]


def test_an_answer_of_a_settings_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    settings = {"default_context": {"author_email": None}, "replay_dir": str(tmp_path)}
    config.write_text(json.dumps(settings), encoding="utf-8")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", "--config-file", str(config), "--no-input"),
            *("--output-dir", str(tmp_path / "out"), str(TEMPLATE)),
        ],
        capture_output=True,
        text=True,
        env=clean_environment(),
    )
    assert result.returncode == 1
    assert result.stderr == "author_email (None) is no text; put it in quotes\n"
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", list(checked_answers.FAULTS))
def test_an_answer_of_a_settings_file_that_is_a_table_is_refused(name: str, tmp_path: Path) -> None:
    table = {name: {"key": "value"}}
    result = run_cookiecutter(tmp_path / "out", "--no-input", str(TEMPLATE), defaults=table)
    [line] = result.stderr.splitlines()
    assert result.returncode == 1
    assert line.startswith(name) and line.endswith(" is no text; put it in quotes")
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize(
    ("answer", "fault"),
    [
        ("__package_name=../escaped", "__package_name ('../escaped') follows from project_slug;"),
        ("__year=1984, Nobody", "__year ('1984, Nobody') is no year;"),
    ],
)
def test_what_follows_from_answers_cannot_be_given(answer: str, fault: str, tmp_path: Path) -> None:
    arguments = ("--no-input", str(TEMPLATE), answer)
    for unchecked in ([], ["__checked="]):
        result = run_cookiecutter(tmp_path / "out", *arguments, *unchecked)
        assert result.returncode != 0
        assert result.stderr.startswith(fault)
        assert list((tmp_path / "out").iterdir()) == []


def test_a_replayed_choice_that_is_none_of_the_list_is_refused(tmp_path: Path) -> None:
    assert render(tmp_path / "out", {}).returncode == 0
    [replay] = (tmp_path / "out-settings").glob("*.json")
    text = replay.read_text(encoding="utf-8")
    replay.write_text(text.replace('"ci": "github"', '"ci": "GitHub"'), encoding="utf-8")
    result = run_cookiecutter(tmp_path / "again", "--replay-file", str(replay), str(TEMPLATE))
    assert result.returncode != 0
    assert result.stderr.startswith("ci ('GitHub') is none of github, gitlab, none;")
    assert list((tmp_path / "again").iterdir()) == []


@pytest.mark.parametrize(("name", "answer", "fault"), REFUSED[:-1])
def test_a_replayed_answer_is_refused_as_well(
    name: str, answer: str, fault: str, tmp_path: Path
) -> None:
    assert render(tmp_path / "out", {}).returncode == 0
    [replay] = (tmp_path / "out-settings").glob("*.json")
    context = json.loads(replay.read_text(encoding="utf-8"))
    context["cookiecutter"][name] = answer
    replay.write_text(json.dumps(context), encoding="utf-8")
    result = run_cookiecutter(tmp_path / "again", "--replay-file", str(replay), str(TEMPLATE))
    # A hook's refusal stands above cookiecutter's traceback.
    line = result.stderr.splitlines()[0]
    assert result.returncode != 0
    assert line.startswith(f"{name} (")
    assert fault in line
    assert list((tmp_path / "again").iterdir()) == []
    assert not (tmp_path / "escaped").exists()


# Each would make the file CANARY, were it ever more than text.
PYTHON = "__import__('pathlib').Path('CANARY').touch()"
PAYLOADS = [
    PYTHON,
    f'"""); {PYTHON} #',
    f"'''); {PYTHON} #",
    f'"); {PYTHON} #',
    f"\\\"); {PYTHON}; ('",
    f'\\\\"""); {PYTHON} #',
    f'"""\\\\"""); {PYTHON} #',
    f'" + {PYTHON} + "',
    f"{{{PYTHON}}}",
    "$(touch CANARY)",
    "`touch CANARY`",
    "; touch CANARY #",
    "& touch CANARY & type nul > CANARY",
    "|| touch CANARY",
    "'; touch CANARY; '",
    '"; touch CANARY; "',
    "--template=$(touch CANARY)",
    "!!python/object/apply:os.system ['touch CANARY']",
    '"\' {x: !!python/object/apply:os.system ["touch CANARY"]} #',
    '" ]] x = "$(touch CANARY)',
    "<script>fetch('CANARY')</script><img src=x onerror=alert(1)>",
    "[x](javascript:alert('CANARY')) ![](CANARY)",
]
JINJA = [
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{{ cycler.__init__.__globals__.os.popen('touch CANARY').read() }}",
    "{% for x in ().__class__.__base__.__subclasses__() %}{{ x }}{% endfor %}",
    "{% include '/etc/hostname' %}{{ self.__init__.__globals__.os.system('touch CANARY') }}",
    "#% set x = lipsum.__globals__['os'].system('touch CANARY')",
    "{{ '{{' }} lipsum.__globals__['os'].system('touch CANARY') {{ '}}' }}",
]


@pytest.fixture
def canaries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder in which programs that an answer starts would leave a file."""
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    assert [path for path in tmp_path.rglob("*") if "CANARY" in path.name] == []


@pytest.mark.parametrize("payload", [*PAYLOADS, *JINJA])
def test_no_typed_answer_becomes_code(payload: str, canaries: Path, default_project: Path) -> None:
    answers = {"project_name": payload, "description": payload, "author_name": payload}
    render_in_process(canaries / "out", answers, typed=True)
    [project] = (canaries / "out").iterdir()
    assert_sound(project, answers, default_project)


def test_no_answer_becomes_code_of_the_tools_that_read_the_project(canaries: Path) -> None:
    answers = {"project_name": PAYLOADS[2], "description": PAYLOADS[4] + PAYLOADS[17]}
    lines = [answers["project_name"], "injected", answers["description"], JINJA[1], *[""] * 4]
    result = run_cookiecutter(canaries / "out", str(TEMPLATE), typed="\n".join(lines) + "\n")
    assert result.returncode == 0, result.stderr
    project = canaries / "out" / "injected"
    # As a script, the noxfile would run its sessions.
    listing = ["noxfile.py", "--list"]
    for program in (["-m", "nox", "--list"], ["-m", "build", "--no-isolation"], listing):
        subprocess.run(
            [sys.executable, *program], cwd=project, check=True, capture_output=True, timeout=120
        )


@pytest.mark.parametrize("question", ["project_slug", "author_email"])
@pytest.mark.parametrize("payload", [*PAYLOADS, *JINJA])
def test_code_is_no_slug_and_no_address(question: str, payload: str, canaries: Path) -> None:
    with pytest.raises(SystemExit) as refusal:
        render_in_process(canaries / "out", {question: payload})
    [line] = str(refusal.value.code).splitlines()
    assert line.startswith(f"{question} (")


def test_words_land_in_no_file_that_runs(default_project: Path, tmp_path: Path) -> None:
    word = "Xylophone"
    answers = dict.fromkeys(["project_name", "description", "author_name"], word)
    answers["project_slug"] = "my-run"
    assert render(tmp_path / "out", answers | {"author_email": f"{word}@x.org"}).returncode == 0
    project = tmp_path / "out" / "my-run"
    found = {name for name in files_under(project) if word in (project / name).read_text()}
    assert found == FILES_WITH_WORDS


def test_the_hook_and_the_checks_call_no_shell_and_nothing_of_one_system() -> None:
    for path in PROGRAMS:
        tree = ast.parse(path.read_text(encoding="utf-8"))
        modules = {
            name.split(".")[0]
            for node in ast.walk(tree)
            for name in (
                [alias.name for alias in node.names]
                if isinstance(node, ast.Import)
                else [node.module or ""]
                if isinstance(node, ast.ImportFrom)
                else []
            )
        }
        portable = {"collections", "functools", "jinja2", "json", "keyword", "os", "pathlib", "re"}
        assert modules <= portable | {"itertools", "shlex", "subprocess", "sys", "unicodedata"}
        calls = {ast.unparse(node.func) for node in ast.walk(tree) if isinstance(node, ast.Call)}
        of_os = {call for call in calls if call.startswith("os.")}
        portable = {"dirname", "exists", "join"}
        assert of_os <= {f"os.path.{name}" for name in portable} | {
            *("os.environ.items", "os.getcwd", "os.listdir", "os.remove", "os.removedirs"),
            *("os.chmod", "os.dup2", "os.open", "os.rename", "os.rmdir", "os.stat", "os.walk"),
        }
        keywords = {node.arg for node in ast.walk(tree) if isinstance(node, ast.keyword)}
        assert not keywords & {"shell", "preexec_fn", "start_new_session", "umask"}


def test_a_refusal_prints_on_a_terminal_that_lacks_its_characters(tmp_path: Path) -> None:
    config = json.dumps({"cookiecutters_dir": str(tmp_path), "replay_dir": str(tmp_path)})
    (tmp_path / "config.yaml").write_text(config, encoding="utf-8")
    result = subprocess.run(
        [
            *(sys.executable, "-m", "cookiecutter", "--no-input", str(TEMPLATE)),
            *("--config-file", str(tmp_path / "config.yaml"), "project_slug=\U0001f389-r\u00fcn"),
        ],
        cwd=tmp_path,
        capture_output=True,
        env=clean_environment() | {"PYTHONUTF8": "0", "PYTHONIOENCODING": "cp1252"},
    )
    assert result.returncode == 1
    [line] = result.stderr.decode("cp1252").splitlines()
    assert line.startswith("project_slug ('\\U0001f389-r\u00fcn') must begin with a letter")
    assert line.endswith("; try 'run'")


@pytest.mark.parametrize(
    ("paths", "folder", "num_folders"),
    [
        (ntpath, "C:\\work\\my-run", 3),
        (ntpath, "\\\\host\\share\\my-run", 2),
        (posixpath, "/a/b", 3),
    ],
)
def test_the_search_for_a_repository_ends_at_the_root_of_each_system(
    paths: ModuleType, folder: str, num_folders: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = PROGRAMS[0].read_text(encoding="utf-8").removesuffix("main()\n")
    source = re.sub(r"\{\{.*?\}\}", '{"ci": "none"}', source)
    hook: dict[str, Any] = {}
    exec(compile(source, "hook", "exec"), hook)
    monkeypatch.setattr(os, "path", paths)
    asked: list[str] = []
    monkeypatch.setattr(paths, "exists", asked.append)
    assert not hook["in_repository"](folder)
    assert asked[0] == paths.join(folder, ".git")
    assert len(asked) == num_folders


def test_every_pinned_distribution_is_refused_as_a_name() -> None:
    pins = (TEMPLATE / "constraints.txt").read_text(encoding="utf-8")
    names = re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)
    assert "torch" in names
    assert {re.sub("[-.]", "_", name).lower() for name in names} <= checked_answers.NEEDED


def test_every_module_of_a_pinned_distribution_is_refused_as_a_name() -> None:
    pins = (TEMPLATE / "constraints.txt").read_text(encoding="utf-8")
    pinned = {canonicalize_name(name) for name in re.findall(r"^([\w.-]+)==", pins, re.MULTILINE)}
    modules = {
        module
        for module, distributions in importlib.metadata.packages_distributions().items()
        if pinned & {canonicalize_name(name) for name in distributions}
    }
    assert {"markdown_it", "mypyc"} <= modules
    slugs = {module.replace("_", "-") for module in modules if module.isidentifier()}
    allowed = {slug for slug in slugs if checked_answers.slug_fault(slug) is None}
    assert allowed == set(), "add these to needed_names.txt"


def test_every_refused_package_name_has_a_suggestion_that_will_do() -> None:
    names = checked_answers.NEEDED | checked_answers.OCCUPIED | sys.stdlib_module_names
    for name in names | checked_answers.WINDOWS_DEVICES | checked_answers.OTHER_STANDARD_MODULES:
        slug = checked_answers.sound_slug(name)
        assert checked_answers.slug_fault(slug) is None, name


def test_a_project_outside_every_repository_starts_with_one_commit(tmp_path: Path) -> None:
    answers = {"author_name": "Ada", "author_email": "ada@example.org"}
    result = render(tmp_path / "out", answers)
    project = tmp_path / "out" / "my-run"
    assert git(project, "log", "--format=%an <%ae>: %s") == (
        "Ada <ada@example.org>: Start from the template"
    )
    assert git(project, "status", "--porcelain") == ""
    assert set(git(project, "ls-files").splitlines()) == files_under(project)
    assert result.stdout.splitlines() == [
        "The files are committed in a new git repository.",
        "Next:",
        f"  cd {project}",
        "  python -m pip install -e .",
        "  python -m my_run.train",
    ]


@pytest.mark.parametrize("slug", ["runs", "data", "mlruns", "x-cache"])
def test_a_package_that_is_called_like_an_ignored_folder_is_committed(
    slug: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Ignored in the project by its own list, or in all projects by the user's.
    (tmp_path / "ignored").write_text("data\n*.yml\n", encoding="utf-8")
    (tmp_path / "gitconfig").write_text(f"[core]\n\texcludesFile = {tmp_path}/ignored\n")
    monkeypatch.setattr("tests.rendering.GIT_SETTINGS", str(tmp_path / "gitconfig"))
    result = render(tmp_path / "an 'out'", {"project_slug": slug})
    project = tmp_path / "an 'out'" / slug
    assert set(git(project, "ls-files").splitlines()) == files_under(project)
    # The command can be typed although the path holds spaces and quotes.
    [command] = re.findall("^  (cd .*)$", result.stdout, re.MULTILINE)
    assert shlex.split(command) == ["cd", str(project)]


@pytest.mark.skipif(sys.platform == "win32", reason="the test speaks to a POSIX shell")
@pytest.mark.parametrize("end", ["| true", ">&-", "| head -n 1"])
def test_a_project_stands_although_nobody_reads_what_is_printed(end: str, tmp_path: Path) -> None:
    config = settings_for(tmp_path / "out")
    command = shlex.join(
        [
            *(sys.executable, "-m", "cookiecutter", "--config-file", str(config), "--no-input"),
            *("--output-dir", str(tmp_path / "out"), str(TEMPLATE), "project_slug=aa"),
        ]
    )
    environment = clean_environment() | {"PYTHONUNBUFFERED": "1"}
    subprocess.run(f"{command} {end}", shell=True, env=environment, timeout=120)
    tests = tmp_path / "out" / "aa" / "tests"
    assert "from aa.settings" in (tests / "test_config.py").read_text(encoding="utf-8")
    assert git(tmp_path / "out" / "aa", "status", "--porcelain") == ""


def test_a_template_that_may_only_be_read_renders(tmp_path: Path) -> None:
    template = copy_template(tmp_path / "template").parent
    for path in template.rglob("*"):
        if path.is_file():
            path.chmod(0o444)
    result = run_cookiecutter(tmp_path / "out", "--no-input", str(template), "project_slug=aa")
    assert result.returncode == 0, result.stderr
    # Whoever runs this may be allowed to write everywhere; the hook must not count on it.
    tests = tmp_path / "out" / "aa" / "tests"
    assert all(path.stat().st_mode & stat.S_IWUSR for path in tests.glob("*.py"))


def test_the_commit_is_in_the_name_that_git_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "gitconfig"
    settings.write_text("[user]\n\tname = Grace\n", encoding="utf-8")
    monkeypatch.setattr("tests.rendering.GIT_SETTINGS", str(settings))
    answers = {"author_name": "Ada", "author_email": "ada@example.org"}
    assert render(tmp_path / "out", answers).returncode == 0
    assert git(tmp_path / "out" / "my-run", "log", "--format=%an %ae") == "Grace ada@example.org"


def test_hooks_and_signing_keys_of_the_user_are_not_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks"
    hooks.mkdir()
    (hooks / "pre-commit").write_text("#!/bin/sh\nexit 1\n", encoding="utf-8")
    (hooks / "pre-commit").chmod(0o755)
    settings = tmp_path / "gitconfig"
    settings.write_text(
        f"[core]\n\thooksPath = {hooks}\n[commit]\n\tgpgsign = true\n", encoding="utf-8"
    )
    monkeypatch.setattr("tests.rendering.GIT_SETTINGS", str(settings))
    assert render(tmp_path / "out", {}).returncode == 0
    assert len(git(tmp_path / "out" / "my-run", "log", "--format=%s").splitlines()) == 1


def test_a_project_inside_a_repository_gets_none_of_its_own(tmp_path: Path) -> None:
    git(tmp_path, "init", "--quiet")
    result = render(tmp_path / "out", {})
    assert result.returncode == 0
    assert not (tmp_path / "out" / "my-run" / ".git").exists()
    assert result.stdout.startswith("Next:\n  cd ")


def test_a_commit_that_fails_is_said_and_fails_nothing(tmp_path: Path) -> None:
    # Git refuses a name that holds nothing but punctuation.
    result = render(tmp_path / "out", {"author_name": "<>"})
    assert result.returncode == 0, result.stderr
    [line] = result.stderr.splitlines()
    assert line.startswith("The first commit failed (")
    assert "python -m my_run.train" in result.stdout


@pytest.mark.skipif(sys.platform == "win32", reason="programs are called in Unicode there")
def test_a_name_that_the_system_cannot_pass_on_fails_nothing(tmp_path: Path) -> None:
    result = run_cookiecutter(
        tmp_path / "out",
        "--no-input",
        str(TEMPLATE),
        defaults={"author_name": "M\u00fcller"},
        environment={"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
    )
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith("The first commit failed ('ascii' codec can't encode")
    assert (tmp_path / "out" / "my-run" / "README.md").exists()


@pytest.mark.parametrize(
    "name", ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR"]
)
def test_a_variable_that_points_git_elsewhere_is_not_heard(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "elsewhere").mkdir()
    environment = clean_environment() | {name: str(tmp_path / "elsewhere")}
    monkeypatch.setattr("tests.rendering.clean_environment", lambda: environment)
    result = render(tmp_path / "out", {})
    monkeypatch.undo()
    assert "The files are committed" in result.stdout
    assert git(tmp_path / "out" / "my-run", "status", "--porcelain") == ""
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_machine_without_git_renders_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    result = render(tmp_path / "out", {})
    assert result.returncode == 0, result.stderr
    assert result.stderr == ""
    assert not (tmp_path / "out" / "my-run" / ".git").exists()


def test_a_path_that_the_template_lost_fails_the_rendering(tmp_path: Path) -> None:
    project_template = copy_template(tmp_path / "template")
    (project_template / ".gitlab-ci.yml").unlink()
    result = run_cookiecutter(tmp_path / "out", "--no-input", str(project_template.parent))
    assert result.returncode != 0
    assert ".gitlab-ci.yml is named in the post_gen hook" in result.stderr.splitlines()[0]
    assert list((tmp_path / "out").iterdir()) == []
