"""Jobs of other people: each replaces files of the starter alone, and the promise holds for it.

Here are those that break it most easily; `nox -s jobs` runs all.
"""

import shutil
from pathlib import Path

import pytest

from .rendering import files_under
from .runs import Run, assert_same_bits, finish, launch, start, train

pytestmark = pytest.mark.torch

JOBS = Path(__file__).parent / "jobs"
USERS_FILES = {
    *("config.py", "data.py", "model.py", "optimizer.py", "pictures.py", "predict.py"),
}
SETTINGS = [
    *("--max-steps", 14, "--global-batch-size", 32, "--micro-batch-size", 4, "--eval-every", 6),
    *("--log-every", 2, "--checkpoint-every", 4, "--keep-checkpoints", 0),
    *("--warmup-steps", 3, "--tracker", "none"),
]


def make_project(name: str, default_project: Path, tmp_path: Path) -> Path:
    """Return a rendered project with the files of one job in place of the starter's."""
    project = tmp_path / "project"
    shutil.copytree(default_project, project, ignore=shutil.ignore_patterns(".git", "__pycache__"))
    files = {name for name in files_under(JOBS / name) if name.endswith(".py")}
    assert files and files <= USERS_FILES
    for file in files:
        shutil.copy(JOBS / name / file, project / "src" / "my_run" / file)
    return project


@pytest.mark.parametrize("name", ["batch_norm", "padded_text", "sometimes_used"])
def test_a_job_keeps_its_bits_through_processes_strategies_and_stops(
    name: str, default_project: Path, tmp_path: Path
) -> None:
    assert_bits_are_kept(make_project(name, default_project, tmp_path), tmp_path)


def assert_bits_are_kept(job: Path, tmp_path: Path) -> None:
    """Train a job in every placement, kill and resume it, and evaluate it."""
    single = train(job, tmp_path / "single", "train", *SETTINGS)
    assert single.summary["exact"]
    programs = [("train", 2), ("reference.single", 1), ("reference.ddp", 2)]
    if "No gradient" in launch(job, "train", "--plan"):
        refused = start(job, "reference.fsdp2", *SETTINGS, "--run-dir", tmp_path / "refused")
        printed, _ = refused.communicate(timeout=100)
        assert refused.returncode == 2 and "FSDP2 needs that of every parameter" in printed
    else:
        programs.append(("reference.fsdp2", 2))
    for program, num_processes in programs:
        other = train(
            job,
            tmp_path / f"{program}-{num_processes}",
            program,
            *SETTINGS,
            num_processes=num_processes,
        )
        assert_same_bits(other, single)

    # As a run that was killed after step 9.
    killed = train(job, tmp_path / "killed", "train", *SETTINGS, num_processes=2)
    for checkpoint in (killed.folder / "checkpoints").iterdir():
        if checkpoint.name > "step_00000009":
            shutil.rmtree(checkpoint)
    finish(start(job, "train", *SETTINGS, "--resume", "must", "--run-dir", killed.folder))
    assert Run(killed.folder).summary["resumed_from"] == 8
    assert_same_bits(Run(killed.folder), single)

    printed = launch(job, "evaluate", "--run-dir", single.folder, num_processes=2)
    for name, value in single.summary.items():
        if name.startswith("test_") and name != "test_samples":
            assert f"{value:.4f}" in printed, printed
