"""Jobs of other people: each replaces files of a starter alone, and the promise holds for it.

Here are those that break it most easily; `nox -s jobs` runs all, and the starters as they are.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from .rendering import STARTERS, files_under, render_in_process
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


def write_images(folder: Path) -> list[object]:
    """Write images of three classes, each of another size; return the flags that read them."""
    from PIL import Image

    draw = random.Random(0)
    for channel, name in enumerate(["red", "green", "blue"]):
        (folder / name).mkdir(parents=True)
        for index in range(40):
            size = draw.randint(9, 40), draw.randint(9, 40)
            color = [draw.randint(0, 180) + 75 * (channel == c) for c in range(3)]
            suffix = ("png", "jpg", "bmp")[index % 3]
            Image.new("RGB", size, tuple(color)).save(folder / name / f"{index}.{suffix}")
    return ["--data-dir", folder, "--image-size", 12]


def write_table(folder: Path, target: Callable[[float, float, str], object]) -> list[object]:
    """Write numbers and categories, some missing; return the flags that read them."""
    draw, lines = random.Random(0), ["size,weight,color,target"]
    for _ in range(300):
        size, weight, color = draw.random(), draw.random(), draw.choice(["red", "blue", "green"])
        shown = [text if draw.random() > 0.05 else "" for text in (f"{size}", f"{weight}", color)]
        lines.append(",".join([*shown, str(target(size, weight, color))]))
    folder.mkdir()
    (folder / "table.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--data-file", folder / "table.csv", "--target", "target"]


def write_classes(folder: Path) -> list[object]:
    return write_table(folder, lambda a, b, color: "yes" if a + b > 1 + (color == "red") else "no")


def write_numbers(folder: Path) -> list[object]:
    return write_table(folder, lambda a, b, color: 100 * (a - b) + 20 * (color == "red"))


def write_text(folder: Path) -> list[object]:
    folder.mkdir()
    text = "".join(random.Random(0).choices(["one ", "two ", "three\n"], k=1500))
    (folder / "text.txt").write_text(text, encoding="utf-8")
    return ["--data-file", folder / "text.txt", "--block-size", 16]


# What each job starts from, if that is not vision, and the data that it reads, if it is of files.
STARTER_OF = {"classes": "tabular", "regression": "tabular", "muon": "tabular", "text": "language"}
DATA_OF: dict[str, Callable[[Path], list[object]]] = {
    "classes": write_classes,
    "regression": write_numbers,
    "text": write_text,
    "image_folder": write_images,
}
# What FSDP2 says of jobs that it cannot train, or not to the same bits.
REFUSED_BY_FSDP2 = {
    "derivatives": "the loss has a gradient in it, and FSDP2 frees",
    "muon": "a step of Combined takes whole parameters",
    "pixels": "FSDP does not support non-contiguous parameters",
    "sometimes_used": "FSDP2 needs that of every parameter",
}
# Starters as they are, with data of one's own, and the jobs that replace files.
OF_FILES = sorted(path.name for path in JOBS.iterdir() if path.is_dir())
NAMES = list(dict.fromkeys([*STARTERS, *STARTER_OF, *OF_FILES]))


def make_job(name: str, folder: Path) -> tuple[Path, list[object]]:
    """Return a rendered project with the files of one job in place of the starter's, and flags."""
    starter = name if name in STARTERS else STARTER_OF.get(name, "vision")
    render_in_process(folder / "rendered", {"starter": starter})
    project = folder / "rendered" / "my-run"
    job = JOBS / name
    files = {name for name in files_under(job) if name.endswith(".py")} if job.exists() else set()
    assert files <= USERS_FILES
    for file in files:
        shutil.copy(job / file, project / "src" / "my_run" / file)
    return project, DATA_OF[name](folder / "data") if name in DATA_OF else []


@pytest.mark.parametrize("name", ["image_folder", "padded_text", "pixels", "sometimes_used"])
def test_a_job_keeps_its_bits_through_processes_strategies_and_stops(
    name: str, tmp_path: Path
) -> None:
    assert_bits_are_kept(name, tmp_path)


def assert_bits_are_kept(name: str, tmp_path: Path) -> None:
    """Train a job in every placement, kill and resume it, and evaluate it."""
    job, flags = make_job(name, tmp_path)
    settings = [*SETTINGS, *flags]
    single = train(job, tmp_path / "single", "train", *settings)
    assert single.summary["exact"]
    programs = [("train", 2), ("reference.single", 1), ("reference.ddp", 2)]
    if name in REFUSED_BY_FSDP2:
        into = [*settings, "--run-dir", tmp_path / "refused"]
        refused = start(job, "reference.fsdp2", *into, num_processes=2)
        printed, _ = refused.communicate(timeout=100)
        assert refused.returncode and REFUSED_BY_FSDP2[name] in printed
    else:
        programs.append(("reference.fsdp2", 2))
    for program, num_processes in programs:
        other = train(
            job,
            tmp_path / f"{program}-{num_processes}",
            program,
            *settings,
            num_processes=num_processes,
        )
        assert_same_bits(other, single)

    # As a run that was killed after step 9.
    killed = train(job, tmp_path / "killed", "train", *settings, num_processes=2)
    for checkpoint in (killed.folder / "checkpoints").iterdir():
        if checkpoint.name > "step_00000009":
            shutil.rmtree(checkpoint)
    finish(start(job, "train", *settings, "--resume", "must", "--run-dir", killed.folder))
    assert Run(killed.folder).summary["resumed_from"] == 8
    assert_same_bits(Run(killed.folder), single)

    for num_processes in (2, 3):
        printed = launch(job, "evaluate", "--run-dir", single.folder, num_processes=num_processes)
        for name, value in single.summary.items():
            if name.startswith("test_") and name != "test_samples":
                assert f"{value:.4f}" in printed, printed
