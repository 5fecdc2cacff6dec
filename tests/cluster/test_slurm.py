"""The job file of launch/, submitted to a real Slurm: what a user sees, and which bits result."""

import json
import re
import shutil
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..runs import Run, assert_same_bits, train
from .conftest import ENDLESS, FLAGS, STEPS, Record
from .launchers import PACE
from .slurm import Slurm, running_slurm, slurm_obstacle

JOB_FILE = Path("launch") / "slurm.sbatch"


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    reason = slurm_obstacle()
    assert reason is None, f"no Slurm can be started here: {reason}"
    folder = tmp_path_factory.mktemp("slurm")
    with running_slurm(folder) as slurm:
        yield slurm


@pytest.fixture(scope="session")
def job_file(small_project: Path) -> Path:
    return without_gpus(small_project)


def without_gpus(project: Path) -> Path:
    """Return the job file without GPUs, as its comment says."""
    file = project / JOB_FILE
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    copy = file.with_name("cpu.sbatch")
    copy.write_text("".join(line for line in lines if "--gpus" not in line), encoding="utf-8")
    return copy


DIRECT = 'srun --label --wait=60 python -m "${train[@]}"\n'
LAUNCHERS = ("srun", "torchrun", "accelerate")


def with_launcher(job_file: Path, launcher: str) -> Path:
    """Return the job file with the lines of this launcher, which it has as a comment."""
    text = job_file.read_text(encoding="utf-8")
    assert text.count(DIRECT) == 1
    if launcher == "srun":
        return job_file
    [commented] = [
        block
        for block in re.findall(r"^#srun .*\n(?:#  .*\n)+", text, re.MULTILINE)
        if f"exec {launcher} " in block
    ]
    text = text.replace(DIRECT, "").replace(commented, commented.replace("\n#", "\n")[1:])
    copy = job_file.with_name(f"{launcher}.sbatch")
    copy.write_text(text, encoding="utf-8")
    return copy


def submit(
    slurm: Slurm, job_file: Path, name: str, *flags: str, options: tuple[str, ...] = ()
) -> str:
    """Submit a run as a user would, from the project's folder; return the number of the job."""
    sources = job_file.parents[1] / "src"
    variables = PACE | {"PYTHONPATH": str(sources), "VENV": str(Path(sys.executable).parents[1])}
    export = ",".join(["ALL", *(f"{name}={value}" for name, value in variables.items())])
    command = ["sbatch", "--parsable", f"--job-name={name}", f"--export={export}", *options]
    return slurm.call(*command, str(job_file), *FLAGS, *flags, cwd=job_file.parents[1])


def printed(job_file: Path, name: str, job: str) -> str:
    return (job_file.parents[1] / f"{name}-{job}.out").read_text(encoding="utf-8")


def run_of(job_file: Path, name: str) -> Run:
    return Run(job_file.parents[1] / "runs" / name)


def steps_of(run: Run) -> int:
    file = run.folder / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def wait_for_steps(slurm: Slurm, run: Run, steps: int) -> None:
    deadline = time.monotonic() + 120
    while steps_of(run) < steps:
        assert time.monotonic() < deadline, f"{run.folder} has {steps_of(run)} steps"
        time.sleep(0.1)


def finish_restarted(slurm: Slurm, job: str, undisturbed: Run, run: Run) -> None:
    """Wait until a job was queued again, let it start at once, and compare its bits."""
    slurm.wait(job, lambda state: state["Restarts"] == "1", "a second start")
    slurm.wait(job, lambda state: state["JobState"] == "PENDING", "the queue")
    # Slurm waits two minutes, because a node refuses a job that has just ended there.
    time.sleep(3)
    slurm.call("scontrol", "update", f"JobId={job}", "StartTime=now")
    done = slurm.finish(job)

    assert (done["JobState"], done["ExitCode"]) == ("COMPLETED", "0:0")
    assert_same_bits(run, undisturbed)
    starts = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    assert len(starts["earlier_starts"]) == 1


def test_a_command_runs_on_both_nodes(slurm: Slurm) -> None:
    assert sorted(slurm.call("srun", "--nodes=2", "hostname").split()) == ["node-a", "node-b"]


def test_a_job_ends_in_the_bits_of_one_process(
    slurm: Slurm, default_project: Path, tmp_path: Path
) -> None:
    """The job that the template has, with its pictures."""
    job_file, steps = without_gpus(default_project), ("--max-steps", "30")
    job = submit(slurm, job_file, "plain", *steps)
    undisturbed = train(default_project, tmp_path / "run", "train", *FLAGS, *steps)
    done = slurm.finish(job)
    run = run_of(job_file, "plain")

    assert (done["JobState"], done["ExitCode"]) == ("COMPLETED", "0:0")
    assert (run.summary["placement"], run.summary["world_size"]) == ("ddp", 2)
    assert_same_bits(run, undisturbed)
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    assert [machine["host"] for machine in environment["machines"]] == ["node-a", "node-b"]
    assert "on node-a, which is rank 0" in printed(job_file, "plain", job)


@pytest.mark.parametrize("launcher", LAUNCHERS[:2])
def test_several_processes_on_a_node_end_in_the_same_bits(
    slurm: Slurm, job_file: Path, undisturbed: Run, launcher: str
) -> None:
    options = ("--nodes=1", "--ntasks-per-node=2", "--cpus-per-task=1")
    file, name = with_launcher(job_file, launcher), f"one-node-{launcher}"
    job = submit(slurm, file, name, *STEPS, options=options)
    done = slurm.finish(job)
    run = run_of(job_file, name)

    assert done["ExitCode"] == "0:0", printed(job_file, name, job)
    assert run.summary["world_size"] == 2
    assert_same_bits(run, undisturbed)


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_a_notice_saves_and_queues_the_job_again(
    slurm: Slurm, job_file: Path, undisturbed: Run, launcher: str
) -> None:
    name = f"notice-{launcher}"
    job = submit(slurm, with_launcher(job_file, launcher), name, *STEPS)
    run = run_of(job_file, name)
    wait_for_steps(slurm, run, 5)
    # As before the time limit: to the processes, not to the script.
    slurm.call("scancel", "--signal=USR1", job)
    finish_restarted(slurm, job, undisturbed, run)
    text = printed(job_file, name, job)
    assert f"ended with 85 in start 0 of job {job}" in text
    assert f"ended with 0 in start 1 of job {job}" in text
    assert "Stopped by SIGUSR1 after step" in text
    if launcher == "srun":
        assert "resume with: srun --nodes 2 --ntasks 2 python -m" in text
    assert run.summary["world_size"] == 2


def test_the_time_limit_gives_notice(slurm: Slurm, job_file: Path) -> None:
    job = submit(slurm, job_file, "limit", *ENDLESS, options=("--time=10", "--signal=USR1@100"))
    start = time.monotonic()
    wait_for_steps(slurm, run_of(job_file, "limit"), 3)
    # A minute or two from now: Slurm gives notice when it next looks, every 30 seconds.
    minutes = int((time.monotonic() - start) / 60) + 2
    slurm.call("scontrol", "update", f"JobId={job}", f"TimeLimit={minutes}")
    slurm.wait(job, lambda state: state["Restarts"] == "1", "a second start")
    slurm.call("scancel", job)
    slurm.finish(job)
    assert "Stopped by SIGUSR1" in printed(job_file, "limit", job)


def test_a_job_of_a_higher_priority_takes_the_place(
    slurm: Slurm, job_file: Path, undisturbed: Run
) -> None:
    job = submit(slurm, job_file, "preempted", *STEPS)
    run = run_of(job_file, "preempted")
    wait_for_steps(slurm, run, 5)
    urgent = ("sbatch", "--parsable", "--partition=urgent", "--nodes=2", "--exclusive")
    other = slurm.call(*urgent, "--output=urgent.out", "--wrap=sleep 1")
    assert slurm.finish(other)["JobState"] == "COMPLETED"
    finish_restarted(slurm, job, undisturbed, run)
    assert "Stopped by SIGTERM after step" in printed(job_file, "preempted", job)


def test_a_cancelled_job_saves_and_does_not_come_back(slurm: Slurm, job_file: Path) -> None:
    job = submit(slurm, job_file, "cancelled", *ENDLESS)
    run = run_of(job_file, "cancelled")
    wait_for_steps(slurm, run, 3)
    slurm.call("scancel", job)
    done = slurm.finish(job)

    assert (done["JobState"], done["Restarts"]) == ("CANCELLED", "0")
    assert run.summary["stopped_by"] == "SIGTERM"
    assert "Stopped by SIGTERM after step" in printed(job_file, "cancelled", job)


def test_a_lost_node_costs_the_steps_since_the_checkpoint(
    slurm: Slurm, job_file: Path, undisturbed: Run
) -> None:
    job = submit(slurm, job_file, "lost", *STEPS)
    run = run_of(job_file, "lost")
    wait_for_steps(slurm, run, 10)
    slurm.lose_node("node-b")
    slurm.wait(job, lambda state: state["Restarts"] == "1", "a second start")
    slurm.start_node("node-b")
    finish_restarted(slurm, job, undisturbed, run)


def test_a_node_that_differs_ends_the_job_in_one_line(slurm: Slurm, job_file: Path) -> None:
    # As a user would who lets each node take a seed of its own.
    seeded = "bash -c '\"$@\" --seed $SLURM_NODEID' -- python"
    text = job_file.read_text(encoding="utf-8")
    assert DIRECT in text
    text = text.replace(DIRECT, DIRECT.replace("python", seeded))
    other = job_file.with_name("other.sbatch")
    other.write_text(text, encoding="utf-8")
    job = submit(slurm, other, "differs", *STEPS)
    done = slurm.finish(job)

    assert (done["JobState"], done["ExitCode"]) == ("FAILED", "2:0")
    lines = [line for line in printed(job_file, "differs", job).splitlines() if "error:" in line]
    ours = [line for line in lines if "srun: error" not in line]
    assert len(ours) == 2 and all("seed is 0 on node-a (rank 0) and 1 on node-b" in x for x in ours)
    assert not run_of(job_file, "differs").folder.exists()


def test_a_wrong_flag_is_the_exit_code_of_the_job(slurm: Slurm, job_file: Path) -> None:
    job = submit(slurm, job_file, "wrong", "--learning-rate", "fast")
    done = slurm.finish(job)

    assert (done["JobState"], done["ExitCode"], done["Restarts"]) == ("FAILED", "2:0", "0")
    text = printed(job_file, "wrong", job)
    assert "learning-rate" in text and "Traceback" not in text


FAULT = """
import socket
_calls = []
def compute_loss(model, batch, correct=compute_loss):
    _calls.append(0)
    if len(_calls) == 10 and socket.gethostname() == "node-b":
        raise KeyError("a label that " + "this node lacks")
    return correct(model, batch)
"""


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_an_error_in_a_users_file_is_shown_and_fails_the_job(
    slurm: Slurm, job_file: Path, tmp_path: Path, record: Record, launcher: str
) -> None:
    project = tmp_path / "my-run"
    shutil.copytree(job_file.parents[1], project, ignore=shutil.ignore_patterns("runs", ".git"))
    with (project / "src" / "my_run" / "model.py").open("a") as model:
        model.write(FAULT)
    file = with_launcher(project / "launch" / job_file.name, launcher)
    job = submit(slurm, file, "fault", *STEPS)
    start = time.monotonic()
    done = slurm.finish(job)
    record(f"{launcher}: an error on node-b, from submission to the end", start)

    text = printed(file, "fault", job)
    assert (done["JobState"], done["ExitCode"], done["Restarts"]) == ("FAILED", "1:0", "0"), text
    errors = [line for line in text.splitlines() if "a label that this node lacks" in line]
    # The task of node-b shows its traceback, and that of node-a names it in one line.
    [own] = [line for line in errors if line.startswith("1: ")]
    [other] = [line for line in errors if line.startswith("0: ")]
    assert "KeyError" in own and 'model.py", line' in text
    assert "node-a: error: rank 1 on node-b: KeyError" in other
