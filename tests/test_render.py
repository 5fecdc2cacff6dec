"""What every combination of choices renders."""

import itertools
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from checked_answers import WINDOWS_DEVICES, markdown, quoted

from .rendering import (
    LONG,
    PROJECT_TEMPLATE,
    STARTERS,
    files_under,
    render,
    render_in_process,
)
from .soundness import (
    COMMONMARK,
    GITHUB,
    assert_citation_reads_back,
    assert_metadata_reads_back,
    plain_text,
    renamed,
    with_defaults,
)

FILES = """
    .dockerignore
    .gitattributes
    .gitignore
    .pre-commit-config.yaml
    AGENTS.md
    CITATION.cff
    Dockerfile
    LICENSE
    README.md
    launch/all_gpus.yaml
    launch/cpu_two_processes.yaml
    launch/fsdp2.yaml
    launch/one_gpu.yaml
    launch/skypilot.yaml
    launch/slurm.sbatch
    launch/training_runtime.yaml
    launch/trainjob.yaml
    launch/two_machines.yaml
    noxfile.py
    pyproject.toml
    src/my_run/__init__.py
    src/my_run/batches/__init__.py
    src/my_run/batches/evaluation.py
    src/my_run/batches/loaders.py
    src/my_run/batches/means.py
    src/my_run/batches/plan.py
    src/my_run/batches/sampling.py
    src/my_run/batches/seeds.py
    src/my_run/batches/structure.py
    src/my_run/batches/workers.py
    src/my_run/checkpoint/__init__.py
    src/my_run/checkpoint/atomic.py
    src/my_run/checkpoint/checkpoints.py
    src/my_run/checkpoint/data_info.py
    src/my_run/checkpoint/group_values.py
    src/my_run/checkpoint/progress.py
    src/my_run/checkpoint/replicated.py
    src/my_run/checkpoint/resume.py
    src/my_run/checkpoint/sharded.py
    src/my_run/checkpoint/state.py
    src/my_run/checkpoint/store.py
    src/my_run/checkpoint/weights.py
    src/my_run/config.py
    src/my_run/data.py
    src/my_run/distributed/__init__.py
    src/my_run/distributed/accelerator.py
    src/my_run/distributed/autocast.py
    src/my_run/distributed/collectives.py
    src/my_run/distributed/devices.py
    src/my_run/distributed/finite.py
    src/my_run/distributed/launch.py
    src/my_run/distributed/process_group.py
    src/my_run/distributed/program.py
    src/my_run/distributed/failures.py
    src/my_run/distributed/heartbeat.py
    src/my_run/distributed/peers.py
    src/my_run/distributed/reachable.py
    src/my_run/distributed/rendezvous.py
    src/my_run/distributed/shards.py
    src/my_run/distributed/signal_watch.py
    src/my_run/distributed/signals.py
    src/my_run/distributed/slurm.py
    src/my_run/distributed/versions.py
    src/my_run/evaluate.py
    src/my_run/export.py
    src/my_run/exact/__init__.py
    src/my_run/exact/average.py
    src/my_run/exact/batch_norm.py
    src/my_run/exact/own_state.py
    src/my_run/exact/ddp.py
    src/my_run/exact/fsdp2.py
    src/my_run/exact/gradients.py
    src/my_run/exact/kernels.py
    src/my_run/exact/step.py
    src/my_run/exact/tree.py
    src/my_run/model.py
    src/my_run/optimizer.py
    src/my_run/pictures.py
    src/my_run/predict.py
    src/my_run/py.typed
    src/my_run/reference/__init__.py
    src/my_run/reference/__main__.py
    src/my_run/reference/data_parallel.py
    src/my_run/reference/ddp.py
    src/my_run/reference/fsdp2.py
    src/my_run/reference/single.py
    src/my_run/run/__init__.py
    src/my_run/run/agreement.py
    src/my_run/run/call_order.py
    src/my_run/run/contract.py
    src/my_run/run/curves.py
    src/my_run/run/environment.py
    src/my_run/run/flop_counter.py
    src/my_run/run/folder.py
    src/my_run/run/fsdp2_checks.py
    src/my_run/run/log.py
    src/my_run/run/metrics_file.py
    src/my_run/run/model_checks.py
    src/my_run/run/optimizer_trial.py
    src/my_run/run/passes.py
    src/my_run/run/peak_flops.py
    src/my_run/run/plan_table.py
    src/my_run/run/profiling.py
    src/my_run/run/run.py
    src/my_run/run/run_dir.py
    src/my_run/run/samples.py
    src/my_run/run/schedule.py
    src/my_run/run/speed.py
    src/my_run/run/start.py
    src/my_run/run/stopwatch.py
    src/my_run/run/summary.py
    src/my_run/run/tables.py
    src/my_run/run/trackers.py
    src/my_run/run/trained.py
    src/my_run/run/trial.py
    src/my_run/run/trial_size.py
    src/my_run/run/users_code.py
    src/my_run/settings/__init__.py
    src/my_run/settings/batch_sizes.py
    src/my_run/settings/bounds.py
    src/my_run/settings/command_line.py
    src/my_run/settings/config_file.py
    src/my_run/settings/errors.py
    src/my_run/settings/output.py
    src/my_run/settings/run_config.py
    src/my_run/settings/start_up.py
    src/my_run/settings/values.py
    src/my_run/train.py
    tests/__init__.py
    tests/conftest.py
    tests/launching.py
    tests/test_agreement.py
    tests/test_architecture.py
    tests/test_checkpoint.py
    tests/test_config.py
    tests/test_data_and_model.py
    tests/test_data_parallel.py
    tests/test_devices.py
    tests/test_exact.py
    tests/test_export.py
    tests/test_figures.py
    tests/test_launch.py
    tests/test_optimizer.py
    tests/test_peers.py
    tests/test_placement.py
    tests/test_profiling.py
    tests/test_references.py
    tests/test_resume.py
    tests/test_run.py
    tests/test_samples.py
    tests/test_sampling.py
    tests/test_schedule.py
    tests/test_slurm.py
    tests/test_starter.py
    tests/test_start_up.py
    tests/test_step.py
    tests/test_surroundings.py
    tests/test_train.py
    tests/test_trial.py
    tests/test_versions.py
    tests/tiny/__init__.py
    tests/tiny/config.py
    tests/tiny/data.py
    tests/tiny/model.py
    tests/tiny/optimizer.py
    tests/tiny/pictures.py
""".split()
STARTER_FILES = """
    src/my_run/config.py
    src/my_run/data.py
    src/my_run/model.py
    src/my_run/optimizer.py
    src/my_run/pictures.py
    src/my_run/predict.py
    tests/test_data_and_model.py
""".split()
# These say what the data is, and need other packages.
WITH_A_WORD_OF_THE_STARTER = {"README.md", "pyproject.toml"}
YAML_ENDINGS = (".yml", ".yaml", ".cff")
CI_FILES = {"github": [".github/workflows/tests.yml"], "gitlab": [".gitlab-ci.yml"], "none": []}

LICENSE_WORDS = {
    "MIT": "Permission is hereby granted, free of charge, to any person obtaining a copy",
    "BSD-3-Clause": "Neither the name of the copyright holder nor the names of its",
    "Apache-2.0": "Version 2.0, January 2004",
    "Proprietary": "All rights reserved",
}


def test_the_files_are_exactly_those_of_the_list(project: Path, answers: dict[str, str]) -> None:
    expected = {renamed(name, project.name) for name in FILES}
    assert files_under(project) == {*expected, *CI_FILES[answers["ci"]]}


def test_no_folder_is_empty(project: Path) -> None:
    folders = [path for path in project.rglob("*") if path.is_dir() and ".git" not in path.parts]
    assert [folder for folder in folders if not any(folder.iterdir())] == []


def test_no_trace_of_the_template_is_left(project: Path, answers: dict[str, str]) -> None:
    words = [answers[name] for name in LONG if name in answers]
    for name in files_under(project):
        text = (project / name).read_text(encoding="utf-8").replace("${{ matrix.python }}", "")
        for word in words:
            # An answer may look like Jinja: it stands there as it was given, or escaped.
            text = text.replace(word, "").replace(quoted(word), "").replace(markdown(word), "")
        assert re.findall(r"\{\{|\{%|\{#|#%|cookiecutter", text) == [], name


def test_every_file_ends_in_one_newline_and_has_no_trailing_space(project: Path) -> None:
    for name in files_under(project):
        text = (project / name).read_bytes().decode("utf-8")
        # A package's __init__.py may be empty.
        assert not text or re.search(r"[^\n]\n\Z", text), name
        assert re.findall(r"[ \t]+\n|\r", text) == [], name


@pytest.mark.parametrize("starter", STARTERS)
def test_the_files_are_byte_for_byte_those_of_the_template(starter: str, tmp_path: Path) -> None:
    render_in_process(tmp_path / "out", {"starter": starter})
    project = tmp_path / "out" / "my-run"
    [package] = (PROJECT_TEMPLATE / "src").iterdir()
    originals = {f"src/my_run/{name}": package / name for name in files_under(package)}
    for folder in ("tests", "launch"):
        path = PROJECT_TEMPLATE / folder
        originals |= {f"{folder}/{name}": path / name for name in files_under(path)}
    for name in STARTER_FILES:
        assert name not in originals
        originals[name] = PROJECT_TEMPLATE / "starters" / starter / Path(name).name
    assert set(FILES) >= set(originals) > set(STARTER_FILES)
    for name, original in originals.items():
        assert (project / name).read_bytes() == original.read_bytes(), name


def test_starters_differ_in_their_own_files_alone(tmp_path: Path) -> None:
    contents = []
    for starter in STARTERS:
        render_in_process(tmp_path / starter, {"starter": starter})
        project = tmp_path / starter / "my-run"
        contents.append({name: (project / name).read_bytes() for name in files_under(project)})
    for others in contents[1:]:
        assert others.keys() == contents[0].keys()
        differing = {name for name in others if others[name] != contents[0][name]}
        assert differing <= {*STARTER_FILES, *WITH_A_WORD_OF_THE_STARTER}
        assert {"src/my_run/data.py", "src/my_run/model.py"} <= differing


def test_the_unrendered_toml_and_yaml_files_parse() -> None:
    names = [name for name in files_under(PROJECT_TEMPLATE) if name.endswith(YAML_ENDINGS)]
    assert {"CITATION.cff", ".pre-commit-config.yaml"} <= set(names)
    for name in names:
        assert yaml.safe_load((PROJECT_TEMPLATE / name).read_text(encoding="utf-8")), name
    toml = tomllib.loads((PROJECT_TEMPLATE / "pyproject.toml").read_text(encoding="utf-8"))
    assert toml["project"]["dependencies"]


def test_the_rendered_yaml_files_parse(project: Path) -> None:
    for name in files_under(project):
        if name.endswith(YAML_ENDINGS):
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
    author = answers.get("author_name", "The authors of My Run")
    assert (author in text) == (answers["license"] != "Apache-2.0")


def test_an_empty_email_leaves_no_empty_entry(project: Path, answers: dict[str, str]) -> None:
    metadata = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    author = {"name": answers.get("author_name", "The authors of My Run")}
    if answers["author_email"]:
        author["email"] = answers["author_email"]
    assert metadata["authors"] == [author]


def test_the_words_read_back(project: Path, answers: dict[str, str]) -> None:
    given = with_defaults(answers)
    assert_metadata_reads_back(project, given)
    assert_citation_reads_back(project, given)
    for parser in (COMMONMARK, GITHUB):
        tokens = parser.parse((project / "README.md").read_text(encoding="utf-8"))
        heading, paragraph = [token for token in tokens if token.type == "inline"][:2]
        assert plain_text(heading) == given["project_name"]
        assert plain_text(paragraph) == given["description"]


def test_every_link_of_the_readme_leads_somewhere(project: Path) -> None:
    tokens = COMMONMARK.parse((project / "README.md").read_text(encoding="utf-8"))
    inlines = [token for token in tokens if token.type == "inline"]
    children = [child for token in inlines for child in token.children or []]
    anchors = {
        re.sub(r"[^\w -]", "", following.content).lower().replace(" ", "-")
        for token, following in itertools.pairwise(tokens)
        if token.type == "heading_open"
    }
    for child in children:
        target = str(child.attrGet("href") or child.attrGet("src") or "")
        if target.startswith("#"):
            assert target[1:] in anchors
        elif target and not target.startswith("https://"):
            assert (project / target.split("#")[0]).exists(), target


def test_the_paragraphs_of_the_readme_stand_apart(project: Path) -> None:
    """Jinja takes blank lines away that follow a line of its own."""
    lines = (project / "README.md").read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        assert not line.startswith("## ") or not before, line
    # Outside tables, lists and code, a line is a paragraph.
    text = "\n".join(lines).split("## Start", 1)[1]
    parts = [part for part in text.split("```")[::2] for part in part.split("\n\n")]
    assert [part for part in parts if "\n" in part.strip() and part.strip()[0] not in "|-#"] == []


def test_every_path_that_the_readme_names_is_there(project: Path) -> None:
    text = (project / "README.md").read_text(encoding="utf-8")
    body = text.split("## Start", 1)[1]
    paths = set(re.findall(r"(?<![\w/])((?:src|launch|tests)/[\w./]+)", body)) - {
        "launch/FILE.yaml"
    }
    package = project / "src" / project.name.replace("-", "_")
    # The tree: two characters, a name, and what it is.
    tree = text.split("## What is where", 1)[1].split("```")[1]
    names = re.findall(r"^[ *] ([a-z_]+(?:/|\.py)) ", tree, re.MULTILINE)
    assert {*names, "__init__.py", "py.typed"} == {
        path.name + "/" * path.is_dir() for path in package.iterdir() if path.name[:3] != "__p"
    }
    paths |= set(re.findall(r"^(?!src)([a-z_]+/) ", tree, re.MULTILINE))
    assert len(paths) >= 4
    for path in paths:
        assert (project / path).exists(), path
    for path in re.findall(r"`(\w+/?\w*\.py)`", body):
        assert (package / path).exists() or (project / path).exists(), path
    modules = set(re.findall(rf"-m {package.name}\.([\w.]+)", body))
    assert {"train", "evaluate", "predict"} <= modules
    for module in modules:
        path = package / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


def test_every_command_and_path_for_agents_is_there(project: Path) -> None:
    text = (project / "AGENTS.md").read_text(encoding="utf-8")
    package = project / "src" / project.name.replace("-", "_")
    assert len(text.splitlines()) < 40
    paths = set(re.findall(r"`([\w./]+(?:/|\.py|\.md))`", text))
    assert {"README.md", "predict.py", "exact/", "tests/tiny/", "exact/tree.py"} <= paths
    for path in paths:
        assert (project / path).exists() or (package / path).exists(), path
    assert set(re.findall(r"-m (\w+)\.", text)) == {package.name}
    for module in re.findall(rf"-m {package.name}\.(\w+)", text):
        assert (package / f"{module}.py").exists(), module
    assert (package / "settings" / "errors.py").read_text(encoding="utf-8").count("SettingError(")
    sessions = re.findall(r"^def (\w+)\(", (project / "noxfile.py").read_text("utf-8"), re.M)
    assert re.findall(r"nox -s (\w+)", text) == sessions
    for path in re.findall(r"nox -s tests -- ([\w./]+)", text):
        assert (project / path).exists(), path


def test_readme_and_notes_for_agents_name_groups_and_extras_that_exist(project: Path) -> None:
    table = tomllib.loads((project / "pyproject.toml").read_text(encoding="utf-8"))
    text = "".join((project / name).read_text("utf-8") for name in ("README.md", "AGENTS.md"))
    groups = re.findall(r"--group (\w+)", text)
    extras = re.findall(r"\.\[(\w+)\]|--extra (\w+)", text)
    assert set(groups) == {"dev"} <= set(table["dependency-groups"])
    assert len(extras) >= 4
    assert {"".join(pair) for pair in extras} <= set(table["project"]["optional-dependencies"])


def test_every_name_is_portable(project: Path) -> None:
    """Check folders and files for what Windows and macOS cannot hold, or hold as one."""
    paths = [path.relative_to(project) for path in project.rglob("*") if ".git" not in path.parts]
    folded = [path.as_posix().casefold() for path in paths]
    assert len(set(folded)) == len(folded)
    for path in paths:
        # Windows has 260 characters for a whole path, unless it is told otherwise.
        assert len(path.as_posix()) <= 120, path
        for part in path.parts:
            assert re.fullmatch(r"[A-Za-z0-9._-]*[A-Za-z0-9_-]", part), path
            assert part.split(".")[0].lower() not in WINDOWS_DEVICES, path


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


def test_a_commit_is_checked_by_the_ruff_of_its_environment(tmp_path: Path) -> None:
    render_in_process(tmp_path, {})
    project = tmp_path / "my-run"
    config = yaml.safe_load((project / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    [repository] = config["repos"]
    assert repository["repo"] == "local"
    entries = [hook["entry"].split() for hook in repository["hooks"]]
    assert [entry[:4] for entry in entries] == [
        ["python", "-m", "ruff", command] for command in ("check", "format")
    ]
    assert all(hook["language"] == "system" for hook in repository["hooks"])
    file = project / "tests" / "test_more.py"
    for text, codes in (('"""More."""\n', [0, 0]), ("import os\n", [1, 0]), ("x = (\n", [1, 2])):
        file.write_text(text, encoding="utf-8")
        commands = [[sys.executable, *entry[1:], "--no-cache", str(file)] for entry in entries]
        runs = [subprocess.run(line, cwd=project, capture_output=True) for line in commands]
        assert [run.returncode for run in runs] == codes, text


def test_every_source_compiles(default_project: Path) -> None:
    for path in default_project.rglob("*.py"):
        compile(path.read_text(encoding="utf-8"), str(path), "exec")


@pytest.mark.parametrize("slug", ["x", "zz-top"])
def test_lint_does_not_depend_on_the_length_or_order_of_the_name(slug: str, tmp_path: Path) -> None:
    assert render(tmp_path / "out", {"project_slug": slug}).returncode == 0
    test_ruff_finds_nothing_to_change(tmp_path / "out" / slug)
