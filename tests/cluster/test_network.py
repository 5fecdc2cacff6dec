"""What a run of these tests leaves behind when it is killed: nothing, once the next starts."""

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from ..rendering import TEMPLATE
from .launchers import wait_until
from .network import (
    ADDRESSES,
    MACHINES,
    Busy,
    claim,
    commands_on,
    machines,
    namespace,
    obstacle,
    processes_on,
)

NAMESPACES = {namespace(name) for name in ADDRESSES}


def namespaces() -> set[str]:
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True, check=True)
    return {line.split()[0] for line in listed.stdout.splitlines()} & NAMESPACES


@pytest.fixture
def tests(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """Two of the tests on Slurm, once its daemons are there."""
    command = [sys.executable, "-m", "pytest", "tests/cluster/test_slurm.py"]
    command += ["-k", "both_nodes or higher_priority"]
    with (tmp_path / "output").open("wb") as output:
        tests = subprocess.Popen(
            [*command, f"--basetemp={tmp_path}/tests"],
            cwd=TEMPLATE,
            stdout=output,
            stderr=output,
        )
    try:
        wait_until(
            lambda: namespaces() == NAMESPACES and bool(processes_on("node-b", "slurmd")), "Slurm"
        )
        yield tests
    finally:
        tests.kill()
        tests.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_stopped_tests_leave_nothing_behind_once_the_next_start(
    tests: subprocess.Popen[bytes], number: signal.Signals
) -> None:
    started = {number: text for name in ADDRESSES for number, text in commands_on(name).items()}
    for daemon in ("munged", "slurmctld", "slurmd"):
        assert any(daemon in command for command in started.values()), started
    tests.send_signal(number)
    code = tests.wait(60)
    if number == signal.SIGKILL:
        assert namespaces() == NAMESPACES and processes_on(MACHINES[0], "slurmd")
        subprocess.run([sys.executable, "-m", "tests.cluster"], cwd=TEMPLATE, check=True)
    else:
        assert code == 128 + number

    assert namespaces() == set()
    wait_until(lambda: not any(map(is_alive, started)), "the end of the daemons", 10)


def is_alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_two_runs_at_the_same_time_do_not_share_the_machines() -> None:
    with claim():
        done = subprocess.run(
            [sys.executable, "-m", "tests.cluster"], cwd=TEMPLATE, capture_output=True, text=True
        )
        with pytest.raises(Busy), machines():
            pass
    assert (done.returncode, done.stderr) == (1, "another run of these tests has the machines\n")


def test_a_namespace_of_another_owner_is_left_alone() -> None:
    name = namespace(MACHINES[0])
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        assert obstacle() == f"a network namespace of another owner is named {name}"
    finally:
        subprocess.run(["ip", "netns", "delete", name], check=True)


def test_one_line_says_what_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    assert obstacle(("ip", "no-such-program")) == "not installed: no-such-program"
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert obstacle() == "it needs Linux, and root, for network namespaces"
