"""Ranks that differ in what decides about the result."""

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from my_run.distributed.devices import find_devices
from my_run.run import agreement
from my_run.run.folder import RunFolder
from my_run.settings.errors import SettingError

from .launching import (
    PACKAGE,
    TIMEOUT_SECONDS,
    tiny_sources,
)
from .tiny.config import TrainConfig
from .tiny.model import Classifier

Facts = dict[str, str]


def check(
    change: Callable[[Facts], None],
    monkeypatch: pytest.MonkeyPatch,
    info: dict[str, Any] | None = None,
) -> None:
    """Check the agreement of this rank, which is rank 0, with one that has a change."""

    def gather(value: tuple[str, Facts, Any]) -> list[tuple[str, Facts, Any]]:
        other = dict(value[1])
        change(other)
        return [("node-a", *value[1:]), ("node-b", other, value[2])]

    monkeypatch.setattr(agreement, "is_distributed", lambda: True)
    monkeypatch.setattr(agreement, "gather_from_ranks", gather)
    agreement.check_agreement(TrainConfig(files=(Path("a"),)), info or {}, 100)


@pytest.mark.parametrize(
    "name",
    [
        *("seed", "learning_rate", "max_steps", "samples", "code of the package", "torch"),
        *("Python", "accelerate", "describe of data.py: mean", "num_workers", "files"),
    ],
)
def test_a_difference_names_hosts_and_what_differs(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = rf"^ranks differ: {name} is .* on node-a \(rank 0\) and other on node-b \(rank 1\);"

    def change(facts: Facts) -> None:
        assert (name in facts) == (name not in ("num_workers", "files"))
        facts[name] = "other"

    if name in ("num_workers", "files"):
        expected = "is not there on node-a"
    with pytest.raises(SettingError, match=expected):
        check(change, monkeypatch, info={"mean": 1.5})


def test_what_is_the_same_agrees(monkeypatch: pytest.MonkeyPatch) -> None:
    check(lambda facts: None, monkeypatch, info={"mean": float("nan"), "names": ["a", "b"]})


def test_many_differences_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    def change(facts: Facts) -> None:
        facts |= dict.fromkeys(["seed", "epochs", "torch", "Python", "samples"], "other")

    with pytest.raises(SettingError, match=r"and 2 more; start all with the same flags"):
        check(change, monkeypatch)


def test_a_rank_with_other_weights_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(run_dir=tmp_path / "run")
    folder = RunFolder(config, find_devices(config, "single"))

    def check_with(other: nn.Module) -> None:
        def gather(value: tuple[Any, ...]) -> list[tuple[Any, ...]]:
            is_of_weights = len(value) == 2
            values = agreement._some_of(other) if is_of_weights else value[1]
            return [("node-a", *value[1:]), ("node-b", values, *value[2:])]

        monkeypatch.setattr(agreement, "is_distributed", lambda: True)
        monkeypatch.setattr(agreement, "gather_from_ranks", gather)
        torch.manual_seed(0)
        folder.broadcast_start(100, {}, Classifier())

    torch.manual_seed(0)
    same, other = Classifier(), Classifier()
    check_with(same)
    with pytest.raises(SettingError, match=r"make_model gives stem\.weight other values on node-b"):
        check_with(other)
    # As on another processor.
    for parameter in same.parameters():
        parameter.data *= 1 + 1e-6
    check_with(same)
    assert agreement._some_of(nn.Linear(2, 1, dtype=torch.complex64))["bias"] > 0


def test_the_digest_of_the_code_changes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "run" / "agreement.py"
    module.parent.mkdir()
    module.touch()
    monkeypatch.setattr(agreement, "__file__", str(module))
    digests = [agreement._digest_of_code()]
    for name, text in (("model.py", "dropout = 0.1"), ("model.py", "dropout = 0.2"), ("b.py", "")):
        (tmp_path / name).write_text(text, encoding="utf-8")
        digests.append(agreement._digest_of_code())
    assert len(set(digests)) == 4


@pytest.mark.parametrize("program", ["train", "reference.ddp"])
def test_a_machine_with_another_seed_ends_all_in_one_line(program: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    command = [sys.executable, "-m", f"{PACKAGE}.{program}", "--placement", "cpu"]
    command += ["--run-dir", str(tmp_path / "run"), "--max-steps", "2", "--tracker", "none"]
    # As two machines, each with one process.
    processes = [
        subprocess.Popen(
            [*command, "--seed", str(rank)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ
            | {"PYTHONPATH": str(tiny_sources()), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            | {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        )
        for rank in range(2)
    ]
    for process in processes:
        _, printed = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 2, printed
        assert "ranks differ: seed is 0 on" in printed and "Traceback" not in printed
    assert not (tmp_path / "run").exists()
