"""Slurm's variables as those of a launcher."""

import os

import pytest

from my_run.distributed.program import read_launcher
from my_run.distributed.slurm import (
    first_host,
    read_slurm,
    tasks_per_node,
)
from my_run.settings.errors import SettingError

SET = (
    *("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "GROUP_RANK", "GROUP_WORLD_SIZE"),
    *("MASTER_ADDR", "MASTER_PORT"),
)
# Task 2 of 3 on two nodes, as srun of Slurm 22.05 sets them.
STEP = {
    "SLURM_STEP_NUM_TASKS": "3",
    "SLURM_PROCID": "2",
    "SLURM_LOCALID": "0",
    "SLURM_NODEID": "1",
    "SLURM_STEP_TASKS_PER_NODE": "2,1",
    "SLURM_STEP_NODELIST": "fa,fb",
    "SLURM_JOB_ID": "7",
    "SLURM_STEP_ID": "0",
}


@pytest.fixture(autouse=True)
def step(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in {*os.environ, *SET}:
        if name in SET or name.startswith("SLURM_"):
            # So that it is also removed after the test.
            monkeypatch.setenv(name, "")
            monkeypatch.delenv(name)
    for name, value in STEP.items():
        monkeypatch.setenv(name, value)


def test_a_task_of_a_step_is_a_rank() -> None:
    assert read_launcher() == 3
    assert {name: os.environ.get(name) for name in SET} == {
        "RANK": "2",
        "WORLD_SIZE": "3",
        "LOCAL_RANK": "0",
        "LOCAL_WORLD_SIZE": "1",
        "GROUP_RANK": "1",
        "GROUP_WORLD_SIZE": "2",
        "MASTER_ADDR": "fa",
        "MASTER_PORT": "20049",
    }


def test_a_task_with_gpus_of_its_own_uses_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_LOCALID": "1", "SLURM_NODEID": "0", "SLURM_PROCID": "1"}.items():
        monkeypatch.setenv(name, value)
    read_slurm()
    assert (os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) == ("1", "2")
    for name in SET:
        monkeypatch.delenv(name)
    monkeypatch.setenv("SLURM_GPUS_PER_TASK", "1")
    read_slurm()
    assert (os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) == ("0", "1")


def test_a_later_start_has_another_port_and_what_is_set_is_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    monkeypatch.setenv("MASTER_ADDR", "head")
    read_slurm()
    assert (os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"]) == ("head", "20050")


@pytest.mark.parametrize(
    "changes",
    [
        # In a batch script, which is one process.
        {"SLURM_STEP_NUM_TASKS": None},
        {"SLURM_STEP_NUM_TASKS": "1"},
        # torchrun, which srun has started.
        {"RANK": "0", "WORLD_SIZE": "4"},
    ],
)
def test_elsewhere_slurm_says_nothing(
    changes: dict[str, str | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        if value is None:
            monkeypatch.delenv(name)
        else:
            monkeypatch.setenv(name, value)
    assert read_launcher() == int(changes.get("WORLD_SIZE") or 1)
    assert "MASTER_ADDR" not in os.environ


@pytest.mark.parametrize(
    "changes",
    [
        {"SLURM_STEP_TASKS_PER_NODE": "two"},
        {"SLURM_NODEID": "2"},
        {"SLURM_STEP_NODELIST": ""},
        {"SLURM_JOB_ID": ""},
    ],
)
def test_what_cannot_be_read_is_one_line(
    changes: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in changes.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingError, match=r"Slurm's variables cannot be read .*start with srun"):
        read_launcher()


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("fa", "fa"),
        ("fa,fb", "fa"),
        ("gpu[003-007,9],login1", "gpu003"),
        ("a[1,3]-ib", "a1-ib"),
        ("node-1.cluster", "node-1.cluster"),
    ],
)
def test_the_first_host_of_a_list_of_nodes(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


@pytest.mark.parametrize(
    ("tasks", "counts"), [("1", [1]), ("2(x3),1", [2, 2, 2, 1]), ("4,2(x2)", [4, 2, 2])]
)
def test_the_tasks_of_each_node(tasks: str, counts: list[int]) -> None:
    assert tasks_per_node(tasks) == counts
