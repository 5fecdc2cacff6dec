"""What the files for Kubernetes, SkyPilot and Docker say of the project and of each other.

`nox -s clouds` reads them with the libraries of those, and runs their commands.
"""

import ast
import fnmatch
import json
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from .rendering import files_under, render_in_process

STOPPED = "85"


def read(project: Path, name: str) -> Any:
    return yaml.safe_load((project / "launch" / name).read_text(encoding="utf-8"))


def trainer_of(project: Path) -> Any:
    return read(project, "trainjob.yaml")["spec"]["trainer"]


def commands(project: Path) -> dict[str, list[str]]:
    """Return the words of each command that starts torchrun, by the file that has it."""
    trainer = trainer_of(project)
    script = read(project, "skypilot.yaml")["run"].replace("\\\n", " ")
    [line] = [line for line in script.splitlines() if line.startswith("torchrun ")]
    return {
        "trainjob.yaml": [*trainer["command"], *trainer["args"]],
        "skypilot.yaml": shlex.split(line.partition("||")[0]),
    }


def instructions(project: Path) -> list[tuple[str, str]]:
    """Return the name and the rest of each instruction of the Dockerfile."""
    text = (project / "Dockerfile").read_text(encoding="utf-8")
    lines = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [
        (name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line)
    ]


def copied(project: Path) -> list[tuple[str, str]]:
    """Return what the Dockerfile copies from the project, and to where."""
    pairs = []
    for name, rest in instructions(project):
        if name == "COPY":
            *sources, target = rest.split()
            pairs += [(source, target) for source in sources]
    return pairs


def ignored(project: Path, name: str) -> bool:
    """Return whether Docker does not see a file of the project: the last pattern decides."""
    result = False
    for line in (project / ".dockerignore").read_text(encoding="utf-8").splitlines():
        pattern = line.removeprefix("!").rstrip("/").removeprefix("**/")
        parts = [name, *map(str, Path(name).parents)] if line[0] == "!" else Path(name).parts
        if line[0] != "#" and any(fnmatch.fnmatch(part, pattern) for part in parts):
            result = line[0] != "!"
    return result


def test_each_flag_of_the_commands_is_a_setting(default_project: Path) -> None:
    source = default_project / "src" / "my_run" / "settings" / "run_config.py"
    [settings] = [
        node
        for node in ast.parse(source.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef) and node.name == "RunConfig"
    ]
    fields = [node.target for node in settings.body if isinstance(node, ast.AnnAssign)]
    known = {"--" + field.id.replace("_", "-") for field in fields if isinstance(field, ast.Name)}
    for name, words in commands(default_project).items():
        after = words[words.index("-m") + 1 :]
        assert after[0] == "my_run.train"
        flags = [word for word in after if word.startswith("--")]
        assert flags == ["--run-dir", "--resume", "--stop-exit-code"], name
        assert set(flags) <= known
        assert after[after.index("--resume") + 1] == "auto"
        assert after[after.index("--stop-exit-code") + 1] == STOPPED


@pytest.mark.torch
def test_each_flag_before_the_module_is_torchruns(default_project: Path) -> None:
    from torch.distributed.run import get_args_parser

    for words in commands(default_project).values():
        wanted = [re.sub(r"^\$.*", "1", word) for word in words[1:]]
        options = get_args_parser().parse_args(wanted)
        assert options.module and options.training_script == "my_run.train"
        assert options.shutdown_timeout > 0


def test_torchrun_kills_before_its_machine_is_killed(default_project: Path) -> None:
    timeouts = {
        name: int(words[words.index("--shutdown-timeout") + 1])
        for name, words in commands(default_project).items()
    }
    text = (default_project / "launch" / "trainjob.yaml").read_text(encoding="utf-8")
    [grace] = map(int, re.findall(r"^ *terminationGracePeriodSeconds: (\d+)$", text, re.M))
    # torchrun's own is 30.
    assert 30 < timeouts["trainjob.yaml"] <= grace - 10
    # SkyPilot's is fixed, in its subprocess_daemon.py.
    assert 20 <= timeouts["skypilot.yaml"] < 30


def test_skypilot_recovers_on_the_code_that_its_script_exits_with(default_project: Path) -> None:
    task = read(default_project, "skypilot.yaml")
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [int(STOPPED)]
    assert re.findall(r"exit (\S+?);? ", task["run"]) == [STOPPED]
    assert "${" not in json.dumps(task["file_mounts"])
    assert f'--run-dir "{next(iter(task["file_mounts"]))}/$RUN_NAME"' in task["run"]
    assert "RUN_NAME" in task["envs"]


@pytest.mark.parametrize("name", ["setup", "run"])
def test_bash_parses_the_scripts(name: str, default_project: Path) -> None:
    script = read(default_project, "skypilot.yaml")[name]
    result = subprocess.run(["bash", "-n"], input=script, capture_output=True, text=True)
    assert (result.returncode, result.stderr) == (0, "")


def test_the_volume_is_where_the_image_may_write(default_project: Path) -> None:
    text = (default_project / "launch" / "trainjob.yaml").read_text(encoding="utf-8")
    [mount] = re.findall(r"name: runs, mountPath: (\S+?)\}", text)
    assert mount == f"{dict(instructions(default_project))['WORKDIR']}/runs"
    assert f"install --directory --owner trainer {mount}" in str(instructions(default_project))
    args = trainer_of(default_project)["args"]
    assert args[args.index("--run-dir") + 1] == "runs/$(RUN_NAME)"


def test_the_image_starts_the_package_as_a_user_and_without_a_shell(tmp_path: Path) -> None:
    render_in_process(tmp_path, {"project_slug": "zz-top"})
    project = tmp_path / "zz-top"
    steps = instructions(project)
    assert steps[-2:] == [
        ("USER", "1000"),
        ("ENTRYPOINT", '["python", "-m", "zz_top.train"]'),
    ]
    assert "useradd --uid 1000" in str(steps)
    for name in ("Dockerfile", ".dockerignore", *map("launch/{}".format, commands(project))):
        assert "my_run" not in (project / name).read_text(encoding="utf-8"), name
    assert trainer_of(project)["image"] == "registry.example.org/zz_top:1"


def test_the_image_has_what_it_needs_and_nothing_else(default_project: Path) -> None:
    sources = [source for source, _ in copied(default_project)]
    # A change of a source file must not install the dependencies again.
    assert sources[0] == "pyproject.toml" and sources.index("src") > 0
    [dependencies] = [
        index
        for index, (_, rest) in enumerate(instructions(default_project))
        if "--requirements pyproject.toml" in rest
    ]
    before = [rest for name, rest in instructions(default_project)[:dependencies] if name == "COPY"]
    assert before == ["pyproject.toml ./"]
    seen = {name for name in files_under(default_project) if not ignored(default_project, name)}
    assert {name.split("/")[0] for name in seen} == set(sources)
    assert ignored(default_project, "src/my_run/__pycache__/train.cpython-313.pyc")
