"""The Dockerfile: linted, and its steps and its command run without Docker."""

import json
import os
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..runs import Run, assert_same_bits
from ..test_clouds import copied, ignored, instructions
from .nodes import FLAGS, earlier_starts, nodes, wait_for_steps

USER = 1000


def test_the_linter_finds_nothing(default_project: Path) -> None:
    result = subprocess.run(
        [Path(sys.executable).with_name("hadolint"), "Dockerfile"],
        cwd=default_project,
        capture_output=True,
        encoding="utf-8",
        timeout=60,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def image(default_project: Path, tmp_path: Path) -> Iterator[Path]:
    """The folder /app of the image: what is copied, and the package that is built from it alone."""
    app = tmp_path / "app"
    for source, target in copied(default_project):
        assert not ignored(default_project, source)
        path = app / target / (source if (default_project / source).is_file() else "")
        path.parent.mkdir(parents=True, exist_ok=True)
        if (default_project / source).is_dir():
            shutil.copytree(default_project / source, app / target)
        else:
            shutil.copy(default_project / source, path)
    build = "uv pip install --system --no-cache --no-deps ."
    assert ("RUN", build) in instructions(default_project)
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps"]
    command += ["--no-build-isolation", "--target", str(tmp_path / "site"), "."]
    subprocess.run(command, cwd=app, check=True, timeout=120)
    # The sources are not what runs.
    shutil.rmtree(app / "src")
    (app / "runs").mkdir()
    for path in [tmp_path, *tmp_path.rglob("*")]:
        path.chmod(
            path.stat().st_mode & ~stat.S_IWGRP & ~stat.S_IWOTH | stat.S_IRGRP | stat.S_IROTH
        )
        if path.is_dir():
            path.chmod(0o755)
    for path in tmp_path.parents[:2]:
        path.chmod(0o755)
    os.chown(app / "runs", USER, USER)
    yield app


def test_process_1_of_the_container_saves_at_a_signal_and_resumes(
    image: Path, default_project: Path, undisturbed: Run
) -> None:
    """As an unprivileged user, who may write to the volume alone."""
    [text] = [words[1] for words in instructions(default_project) if words[0] == "ENTRYPOINT"]
    entrypoint = json.loads(text)
    assert entrypoint[0] == "python"
    user = ["setpriv", "--reuid", str(USER), "--regid", str(USER), "--clear-groups"]
    command = [*user, "--inh-caps=-all", sys.executable, *entrypoint[1:]]
    command += ["--run-dir", "runs/train", "--resume", "auto", *FLAGS]
    temporary = image / "runs" / "tmp"
    temporary.mkdir()
    os.chown(temporary, USER, USER)
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": str(image.parent / "site"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "HOME": "/nonexistent",
        "TMPDIR": str(temporary),
        "OMP_NUM_THREADS": "1",
    }
    run = Run(image / "runs" / "train")
    with nodes(command, [environment], cwd=image, is_container=True) as [node]:
        wait_for_steps(run, 5)
        node.stop()
        code, printed = node.finish()
    assert code == 0, printed[-4000:]
    assert run.summary["stopped_by"] == "SIGTERM"
    assert {path.stat().st_uid for path in run.folder.rglob("*")} == {USER}
    with nodes(command, [environment], cwd=image, is_container=True) as [node]:
        code, printed = node.finish()
    assert code == 0, printed[-4000:]
    assert earlier_starts(run) == 1
    assert_same_bits(run, undisturbed)


def test_the_first_line_is_the_command_that_builds(default_project: Path) -> None:
    first = (default_project / "Dockerfile").read_text(encoding="utf-8").splitlines()[0]
    assert shlex.split(first)[1:] == ["docker", "build", "--tag", "my_run", "."]
