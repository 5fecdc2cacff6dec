"""The files of launch/: what Accelerate reads in each, and the runs that a CPU can start."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser

from .launching import PACKAGE, TIMEOUT_SECONDS, launch, read_summary, tiny_sources

LAUNCH = Path(__file__).parents[1] / "launch"
TYPES = {
    "all_gpus.yaml": "MULTI_GPU",
    "cpu_two_processes.yaml": "MULTI_GPU",
    "fsdp2.yaml": "FSDP",
    "one_gpu.yaml": "NO",
    "two_machines.yaml": "MULTI_GPU",
}

SETTINGS = ["--max-steps", 2, "--tracker", "none", "--run-dir"]
Start = Callable[..., subprocess.Popen[str]]


def command_of(name: str) -> list[str]:
    """Return the command that a file's first line tells a person to type."""
    line = (LAUNCH / name).read_text(encoding="utf-8").splitlines()[0]
    words = line.removeprefix("# accelerate launch ").split()
    assert words[:2] == ["--config_file", f"launch/{name}"]
    return words


@pytest.fixture
def start() -> Iterator[Start]:
    """A function that starts `accelerate launch` with words, where a person would."""
    started: list[subprocess.Popen[str]] = []

    def start_one(*words: object) -> subprocess.Popen[str]:
        launcher = subprocess.Popen(
            [sys.executable, "-m", "accelerate.commands.launch", *map(str, words)],
            cwd=LAUNCH.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": str(tiny_sources())},
        )
        started.append(launcher)
        return launcher

    yield start_one
    for launcher in started:
        # Where a test failed: the launcher then ends the processes that it started.
        launcher.terminate()
        launcher.communicate()


def finish(launcher: subprocess.Popen[str]) -> None:
    """Wait for a launcher, which must exit with 0."""
    output, _ = launcher.communicate(timeout=TIMEOUT_SECONDS)
    assert launcher.returncode == 0, output
    assert "terminate called" not in output


def test_the_folder_holds_exactly_these_files() -> None:
    others = {"skypilot.yaml", "slurm.sbatch", "trainjob.yaml", "training_runtime.yaml"}
    assert {path.name for path in LAUNCH.iterdir()} == {*TYPES, *others}


@pytest.mark.parametrize("name", TYPES)
def test_accelerate_reads_a_file_as_its_name_promises(name: str) -> None:
    """Its loader refuses unknown keys, but not those of `fsdp_config`."""
    config = load_config_from_file(str(LAUNCH / name))
    options = vars(launch_command_parser().parse_args(["program.py"]))

    assert config.distributed_type.value == TYPES[name]
    # Left out, it is -1, and the launcher asks for it.
    assert config.num_processes != -1
    assert config.num_machines == (2 if name == "two_machines.yaml" else 1)
    assert set(config.fsdp_config) <= set(options)
    assert config.fsdp_config.get("fsdp_version") == (2 if name == "fsdp2.yaml" else None)


def test_the_cpu_file_starts_two_processes(start: Start, tmp_path: Path) -> None:
    finish(start(*command_of("cpu_two_processes.yaml"), *SETTINGS, tmp_path / "run"))
    summary = read_summary(tmp_path / "run")

    assert (summary["placement"], summary["device"], summary["world_size"]) == ("ddp", "cpu", 2)


def test_the_two_machines_file_joins_two_launchers(
    start: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both on this machine, and its CPU; the address is the only thing that is not the file's."""
    # The command asks for --placement ddp, which would take GPUs where there are any.
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = ["--main_process_ip", "127.0.0.1", "--main_process_port", port]
    command = command_of("two_machines.yaml")
    machines = []
    for rank in ("0", "1"):
        command[command.index("--machine_rank") + 1] = rank
        machines.append(start(*address, *command, *SETTINGS, tmp_path / "run"))
    for machine in machines:
        finish(machine)
    summary = read_summary(tmp_path / "run")

    assert (summary["placement"], summary["world_size"]) == ("ddp", 2)


@pytest.mark.parametrize("rank", ["0", "1"])
def test_the_two_machines_file_as_it_is_names_what_to_fill_in(start: Start, rank: str) -> None:
    """At once; an address that nobody has would be waited for."""
    command = command_of("two_machines.yaml")
    command[command.index("--machine_rank") + 1] = rank
    launcher = start(*command)
    output, _ = launcher.communicate(timeout=60)

    assert launcher.returncode == 1
    assert "'<the address of the first machine>:29500'" in output.splitlines()[-1]


@pytest.mark.parametrize("program", ["reference.ddp", "reference.fsdp2"])
def test_a_reference_of_several_processes_also_runs_in_one(program: str, tmp_path: Path) -> None:
    flags = ["--placement", "cpu", *SETTINGS, tmp_path / "run"]
    done = launch(program, "--num-processes", 1, *flags)
    assert done.returncode == 0, done.stderr
    summary = read_summary(tmp_path / "run")

    assert (summary["placement"], summary["world_size"]) == (program.partition(".")[2], 1)


def test_torchrun_may_start_a_reference_in_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "1", "-m", f"{PACKAGE}.reference.ddp"]
    flags = ["--placement", "cpu", *map(str, SETTINGS), str(tmp_path / "run")]
    environment = os.environ | {"PYTHONPATH": str(tiny_sources())}
    subprocess.run([*command, *flags], env=environment, check=True, timeout=TIMEOUT_SECONDS)

    assert read_summary(tmp_path / "run")["world_size"] == 1
    done = subprocess.run(
        [*command, *flags, "--num-processes", "2"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert "num_processes (2) is not what the launcher started (1)" in done.stderr


def test_a_plan_of_two_processes_starts_none(tmp_path: Path) -> None:
    flags = ["--placement", "cpu", "--plan", *SETTINGS, tmp_path / "run"]
    done = launch("reference.ddp", "--num-processes", 2, *flags)

    assert done.returncode == 0, done.stderr
    assert "2 processes on cpu" in done.stdout
