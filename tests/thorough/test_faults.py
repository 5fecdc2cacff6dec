"""Runs that are killed, stopped and sabotaged at random, and end as if nothing had been."""

import hashlib
import itertools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import cache, partial
from pathlib import Path

import pytest

from ..rendering import STARTERS
from ..runs import Run, assert_same_bits, difference, finish, launch, start, train
from .test_placement import SMALL

SETTINGS = [
    *("--max-steps", 90, "--log-every", 3, "--eval-every", 10, "--warmup-steps", 5),
    *("--checkpoint-every", 3, "--placement", "cpu", "--tracker", "none"),
]
PROGRAMS = {
    1: ["train", "reference.single", "reference.data_parallel"],
    2: ["train", "reference.ddp", "reference.fsdp2"],
    4: ["train", "reference.ddp", "reference.fsdp2"],
}
NUM_RUNS, KILLS_PER_RUN = 20, 5
RANK_DIED_SECONDS = 40
"""torchrun gives the ranks that are left 30 seconds."""

CHECKPOINT_FILES = (
    *("model.safetensors", "optimizer.safetensors"),
    *("manifest.json", "manifest.json.sha256"),
)
Property = Callable[[str, object], None]


@pytest.fixture(scope="module")
def undisturbed_of(
    starter_projects: dict[str, Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Run]:
    """Of each starter the run on one process that nothing happens to, made when it is needed."""

    @cache
    def run_of(starter: str) -> Run:
        folder = tmp_path_factory.mktemp("undisturbed") / "run"
        return train(starter_projects[starter], folder, "train", *SETTINGS, *SMALL[starter])

    return run_of


@pytest.fixture(scope="module")
def undisturbed(undisturbed_of: Callable[[str], Run]) -> Run:
    return undisturbed_of("vision")


def saved_steps(folder: Path) -> list[int]:
    """Return the steps that have a checkpoint under its own name, newest first."""
    names = [path.name for path in (folder / "checkpoints").glob("step_*")]
    return sorted((int(name[5:]) for name in names if name[5:].isdigit()), reverse=True)


def resume(
    project: Path, folder: Path, program: str, num_processes: int, *settings: object
) -> subprocess.Popen[str]:
    arguments = [*SETTINGS, *settings, "--run-dir", folder, "--resume", "auto"]
    return start(project, program, *arguments, num_processes=num_processes)


def started_by(job: subprocess.Popen[str], folder: Path) -> dict[int, list[int]]:
    """Return the processes of each rank of a job: itself, then those that read data for it."""
    ranks: dict[int, list[int]] = {}
    for process in sorted(int(path.name) for path in Path("/proc").glob("[0-9]*")):
        try:
            command = Path(f"/proc/{process}/cmdline").read_bytes().split(b"\0")
            variables = Path(f"/proc/{process}/environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(folder).encode() in command and process != job.pid:
            rank = next((int(text[5:]) for text in variables if text.startswith(b"RANK=")), 0)
            ranks.setdefault(rank, []).append(process)
    return ranks


def kill(job: subprocess.Popen[str], folder: Path, *, rank: int | None) -> None:
    """Kill a rank, or the whole job, and wait until all its processes are gone."""
    ranks = started_by(job, folder)
    if rank in ranks:
        send(signal.SIGKILL, ranks[rank][0])
        job.communicate(timeout=RANK_DIED_SECONDS)
        assert not started_by(job, folder), "ranks are left over"
        return
    send(signal.SIGKILL, job.pid)
    # The launcher may have started ranks while the list was read.
    while ranks := started_by(job, folder):
        send(signal.SIGKILL, *itertools.chain(*ranks.values()))
    job.communicate(timeout=RANK_DIED_SECONDS)


def send(number: signal.Signals, *processes: int) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            os.kill(process, number)


def wait_until(job: subprocess.Popen[str], happened: Callable[[], bool]) -> None:
    """Wait until something has happened, or the job has ended."""
    while job.poll() is None and not happened():
        time.sleep(0.0005)


def has_saved(folder: Path, step: int) -> bool:
    return max(saved_steps(folder), default=0) >= step


def is_whole(folder: Path, step: int) -> bool:
    """Compare sizes and checksums of a checkpoint with its manifest."""
    checkpoint = folder / "checkpoints" / f"step_{step:08d}"
    files = json.loads((checkpoint / "manifest.json").read_text(encoding="utf-8"))["files"]
    contents = {name: (checkpoint / name).read_bytes() for name in files}
    return len(files) == 2 and files == {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
        for name, content in contents.items()
    }


def is_writing(folder: Path) -> bool:
    """Tell whether a checkpoint is in the middle of being written."""
    checkpoints = folder / "checkpoints"
    names = os.listdir(checkpoints) if checkpoints.exists() else []
    return any(name.endswith(".part") for name in names)


@pytest.mark.parametrize("number", range(NUM_RUNS))
def test_a_run_killed_at_random_moments_ends_in_the_same_bits(
    number: int,
    seed: int,
    starter_projects: dict[str, Path],
    undisturbed_of: Callable[[str], Run],
    tmp_path: Path,
    record_property: Property,
) -> None:
    draw = random.Random(f"{seed}/{number}")
    starter = STARTERS[number % len(STARTERS)]
    project, settings = starter_projects[starter], SMALL[starter]
    undisturbed = undisturbed_of(starter)
    folder, counts, newest = tmp_path / "run", Counter[str](), 0
    while counts["kills"] < KILLS_PER_RUN:
        world_size = draw.choice([1, 2, 4])
        program = draw.choice(PROGRAMS[world_size])
        rank = draw.choice([None, draw.randrange(world_size)])
        moment = draw.choice(["at the start", "while training", "while writing"])
        # Behind the checkpoint that it started from.
        far_enough = newest + draw.choice([3, 6, 9, 12])
        job = resume(project, folder, program, world_size, *settings)
        if moment == "at the start":
            time.sleep(draw.uniform(0, 3))
        else:
            wait_until(job, partial(has_saved, folder, far_enough))
        if moment == "while training":
            time.sleep(draw.uniform(0, 0.3))
        elif moment == "while writing":
            wait_until(job, partial(is_writing, folder))
        counts["kills"] += 1
        counts[moment] += 1
        counts["after the end"] += job.poll() is not None
        kill(job, folder, rank=rank)
        counts["that cut a write off"] += is_writing(folder)
        counts[f"on {world_size}"] += 1
        before, newest = newest, max(saved_steps(folder), default=0)
        assert newest >= before, "a checkpoint was lost"
        assert all(is_whole(folder, step) for step in saved_steps(folder))
    counts["steps saved before the end"] = newest
    job = resume(project, folder, program, world_size, *settings)
    printed = finish(job)
    found = [f"{count} {what}" for what, count in counts.items()]
    record_property(f"run {number}, {starter}, seed {seed}", ", ".join(found))

    assert "corrupted" not in printed, printed
    assert Run(folder).summary["world_size"] == world_size
    assert_same_bits(Run(folder), undisturbed)


@pytest.mark.parametrize(
    "sizes", [(1, 1), (2, 2), (1, 2, 4), (4, 1, 2)], ids=lambda sizes: "-".join(map(str, sizes))
)
def test_without_exact_sums_a_resumed_run_agrees_as_far_as_its_placements_do(
    sizes: tuple[int, ...], default_project: Path, tmp_path: Path, record_property: Property
) -> None:
    folder = tmp_path / "run"
    for number, world_size in enumerate(sizes, start=1):
        job = resume(default_project, folder, "train", world_size, "--no-exact")
        if number < len(sizes):
            wait_until(job, partial(has_saved, folder, 20 * number))
            kill(job, folder, rank=None)
    finish(job)
    settings = [*SETTINGS, "--no-exact"]
    size = sizes[0]
    expected = train(default_project, tmp_path / "expected", "train", *settings, num_processes=size)
    found = difference(Run(folder), expected)
    record_property(f"on {sizes} processes, --no-exact", found)

    assert Run(folder).summary["resumed_from"] >= 20 * (len(sizes) - 1)
    assert found.weights <= 1e-5 and max(found.loss, found.grad_norm) <= 1e-4
    if len(set(sizes)) == 1:
        assert Run(folder).weights_file == expected.weights_file
        assert Run(folder).metrics == expected.metrics


@pytest.fixture(scope="module")
def stopped(default_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that a signal has stopped, with at least two checkpoints."""
    folder = tmp_path_factory.mktemp("stopped") / "run"
    job = resume(default_project, folder, "train", 1)
    while len(saved_steps(folder)) < 2:
        assert job.poll() is None
        time.sleep(0.01)
    job.send_signal(signal.SIGTERM)
    finish(job)
    return folder


def damages(content: bytes, draw: random.Random) -> dict[str, bytes | None]:
    flipped = bytearray(content)
    flipped[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return {
        "truncated": content[: draw.randrange(len(content))],
        "flipped": bytes(flipped),
        "deleted": None,
    }


@pytest.mark.parametrize("name", CHECKPOINT_FILES)
@pytest.mark.parametrize("damage", ["truncated", "flipped", "deleted"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_used(
    name: str,
    damage: str,
    seed: int,
    default_project: Path,
    stopped: Path,
    undisturbed: Run,
    tmp_path: Path,
) -> None:
    folder = shutil.copytree(stopped, tmp_path / "run")
    newest, before, *_ = saved_steps(folder)
    file = folder / "checkpoints" / f"step_{newest:08d}" / name
    content = damages(file.read_bytes(), random.Random(f"{seed}/{name}"))[damage]
    if content is None:
        file.unlink()
    else:
        file.write_bytes(content)
    printed = finish(resume(default_project, folder, "train", 1))

    assert f"step_{newest:08d} is corrupted and skipped" in printed
    assert Run(folder).summary["resumed_from"] == before
    assert_same_bits(Run(folder), undisturbed)


def test_no_flipped_bit_is_overlooked(
    seed: int, default_project: Path, stopped: Path, tmp_path: Path, record_property: Property
) -> None:
    """One bit of each byte of the small files, and of 2,000 bytes of each large one."""
    script = tmp_path / "flip.py"
    script.write_text(FLIP, encoding="utf-8")
    newest = stopped / "checkpoints" / f"step_{saved_steps(stopped)[0]:08d}"
    folder = shutil.copytree(newest, tmp_path / newest.name)
    printed = launch(default_project, str(script), folder, seed)
    flips = sum(min(2000, (newest / name).stat().st_size) for name in CHECKPOINT_FILES)
    record_property("flipped bits, all noticed", flips)

    assert printed.split() == ["flips", str(flips), "overlooked", "0"]


FLIP = """
import random, sys
from pathlib import Path
from my_run.checkpoint.store import CorruptCheckpoint, read_manifest

folder, draw, flips, overlooked = Path(sys.argv[1]), random.Random(sys.argv[2]), 0, 0
for file in sorted(folder.iterdir()):
    whole = file.read_bytes()
    for position in draw.sample(range(len(whole)), min(2000, len(whole))):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << draw.randrange(8)
        file.write_bytes(damaged)
        flips += 1
        try:
            read_manifest(folder)
            overlooked += 1
        except CorruptCheckpoint:
            pass
    file.write_bytes(whole)
read_manifest(folder)
print("flips", flips, "overlooked", overlooked)
"""


@pytest.mark.parametrize(
    ("program", "num_processes", "target"),
    [
        ("train", 1, "job"),
        ("train", 2, "job"),
        ("train", 2, "rank 1"),
        ("train", 2, "everything"),
        ("reference.ddp", 2, "job"),
        ("reference.fsdp2", 2, "everything"),
        ("accelerate", 1, "everything"),
        ("accelerate", 2, "job"),
    ],
)
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT", "SIGUSR1"])
def test_a_signal_stops_all_ranks_and_the_run_goes_on(
    program: str,
    num_processes: int,
    target: str,
    name: str,
    default_project: Path,
    undisturbed: Run,
    tmp_path: Path,
) -> None:
    run = Run(tmp_path / "run")
    settings: list[object] = [*SETTINGS, "--run-dir", run.folder]
    # Processes that read data get the signal as well.
    settings += ["--num-workers", 1] if target == "everything" else []
    # Launchers pass on SIGUSR1 when they are told to, and start nothing on a CPU unasked.
    environment = {
        "PET_SIGNALS_TO_HANDLE": "SIGTERM,SIGINT,SIGUSR1",
        "ACCELERATE_USE_CPU": "true",
    }
    job = start(
        default_project, program, *settings, num_processes=num_processes, environment=environment
    )
    while not saved_steps(run.folder):
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    ranks = started_by(job, run.folder)
    targets = [job.pid]
    if target == "rank 1":
        targets = ranks[1][:1]
    elif target == "everything":
        targets += itertools.chain(*ranks.values())
    # Launchers and schedulers may both send it; a second interrupt means more.
    for _ in range(2 if name == "SIGTERM" else 1):
        send(signal.Signals[name], *targets)
    printed, _ = job.communicate(timeout=RANK_DIED_SECONDS)

    assert run.summary["stopped_by"] == name, printed
    assert run.summary["optimizer_steps"] == saved_steps(run.folder)[0] < 90
    assert f"Stopped by {name}" in printed and "resume with: " in printed
    finish(resume(default_project, run.folder, "train", 1))
    assert_same_bits(run, undisturbed)


def test_a_second_interrupt_leaves_at_once(default_project: Path, tmp_path: Path) -> None:
    # Steps of a second and more, so that the first one is still on its way.
    settings = ["--global-batch-size", 256, "--micro-batch-size", 1, "--checkpoint-every", 1]
    job = resume(default_project, tmp_path / "run", "train", 1, *settings)
    while not saved_steps(tmp_path / "run"):
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    job.send_signal(signal.SIGINT)
    time.sleep(0.2)
    job.send_signal(signal.SIGINT)
    printed, _ = job.communicate(timeout=2)

    assert job.returncode == 130, printed
    assert "press Ctrl-C again to exit immediately" in printed
    assert "interrupted; the latest complete checkpoint is kept" in printed
    assert "Traceback" not in printed


@pytest.mark.parametrize("program", ["train", "reference.ddp", "reference.fsdp2"])
def test_a_rank_that_dies_ends_the_others_soon(
    program: str, default_project: Path, tmp_path: Path, record_property: Property
) -> None:
    job = resume(default_project, tmp_path / "run", program, 4)
    while not saved_steps(tmp_path / "run"):
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    began = time.monotonic()
    assert len(started_by(job, tmp_path / "run")) == 4
    kill(job, tmp_path / "run", rank=2)
    record_property(f"{program}: seconds to the end of the other ranks", time.monotonic() - began)

    assert job.returncode == 1


def test_the_error_of_the_first_rank_comes_first(default_project: Path, tmp_path: Path) -> None:
    script = tmp_path / "raise.py"
    script.write_text(RAISE, encoding="utf-8")
    arguments = [*SETTINGS, "--run-dir", tmp_path / "run"]
    job = start(default_project, str(script), *arguments, num_processes=2)
    printed, _ = job.communicate(timeout=RANK_DIED_SECONDS)

    assert job.returncode == 1
    errors = re.findall(r"^\S* ?(\w*Error: .*)", printed, re.MULTILINE)
    assert errors[0] == "ValueError: the data of rank 1 are broken", errors


RAISE = """
import os
from my_run import train
from my_run.batches import plan
from my_run.batches.seeds import seed_forward
from my_run.distributed.launch import run_in_this_process

def fail(seed, step, micro_batches):
    if (os.environ["RANK"], step) == ("1", 5):
        raise ValueError("the data of rank 1 are broken")
    seed_forward(seed, step, micro_batches)

plan.seed_forward = fail
run_in_this_process(train.train, train.TrainConfig)
"""


@pytest.mark.parametrize("repeat", range(3))
def test_two_runs_at_the_same_time_in_one_folder(
    repeat: int, default_project: Path, undisturbed: Run, tmp_path: Path
) -> None:
    jobs = [resume(default_project, tmp_path / "run", "train", 1) for _ in range(2)]
    printed = [job.communicate(timeout=120)[0] for job in jobs]

    assert sorted(job.returncode for job in jobs) == [0, 2], printed
    [refused] = [text for job, text in zip(jobs, printed, strict=True) if job.returncode]
    assert "in use by process" in refused
    assert_same_bits(Run(tmp_path / "run"), undisturbed)


@pytest.mark.parametrize("program", ["train", "reference.ddp"])
def test_a_full_disk_leaves_the_older_checkpoints_whole(
    program: str, default_project: Path, undisturbed: Run, tmp_path: Path
) -> None:
    """On a small file system of its own; needs Linux, and a user who may make one."""
    script = tmp_path / "disk.sh"
    script.write_text(DISK, encoding="utf-8")
    job = start(
        default_project,
        program,
        *(*SETTINGS, "--keep-checkpoints", 0, "--run-dir", tmp_path / "disk" / "run"),
        num_processes=1 if program == "train" else 2,
        before=["unshare", "--map-root-user", "--mount", "sh", str(script), str(tmp_path)],
    )
    printed, _ = job.communicate(timeout=120)
    folder = tmp_path / "left"
    newest = saved_steps(folder)[0]
    [message] = [line for line in printed.splitlines() if line.startswith("error: ")]

    assert job.returncode == 1, printed
    assert "No space left on device" in message
    assert f"The latest checkpoint is {tmp_path}/disk/run/checkpoints/step_{newest:08d}" in message
    assert not list(folder.rglob("*.part"))
    assert "corrupted" not in finish(resume(default_project, folder, "train", 1))
    assert Run(folder).summary["resumed_from"] == newest
    assert_same_bits(Run(folder), undisturbed)


# Outside this shell the file system does not exist: what was written is copied out of it.
DISK = """
folder=$1; shift
mkdir $folder/disk
mount -t tmpfs -o size=4m tmpfs $folder/disk || exit 9
"$@"
code=$?
cp -r $folder/disk/run $folder/left
exit $code
"""


def test_a_folder_that_cannot_be_written_ends_the_run_in_one_line(
    default_project: Path, undisturbed: Run, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    job = resume(default_project, folder, "train", 1)
    while not saved_steps(folder):
        assert job.poll() is None, job.communicate()
        time.sleep(0.01)
    (folder / "checkpoints").rename(tmp_path / "kept")
    (folder / "checkpoints").touch()
    printed, _ = job.communicate(timeout=60)
    assert job.returncode == 1
    assert "the checkpoint cannot be written: " in printed and "Traceback" not in printed

    (folder / "checkpoints").unlink()
    (tmp_path / "kept").rename(folder / "checkpoints")
    assert "corrupted" not in finish(resume(default_project, folder, "train", 1))
    assert_same_bits(Run(folder), undisturbed)
