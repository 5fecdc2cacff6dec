"""The SkyPilot task: read by SkyPilot, and its script run as on two machines."""

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import sky
import yaml
from sky.jobs import recovery_strategy as _registers_strategies  # noqa: F401
from sky.utils import schemas
from sky.utils.registry import JOBS_RECOVERY_STRATEGY_REGISTRY

from ..runs import Run, assert_same_bits
from .nodes import (
    FLAGS,
    earlier_starts,
    environment_of,
    free_port,
    misspelt,
    nodes,
    wait_for,
    wait_for_steps,
)

# Mappings whose keys are the user's own, by their paths.
FREE = [("envs",), ("file_mounts",)]


@pytest.fixture(autouse=True)
def strict(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let SkyPilot check as its server does, which knows all names, and write to no home."""
    monkeypatch.setattr(schemas, "_allow_additional_properties", lambda: False)
    monkeypatch.setenv("HOME", str(tmp_path))


def read(project: Path) -> dict[str, Any]:
    text = (project / "launch" / "skypilot.yaml").read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def round_trip(document: Mapping[str, Any]) -> dict[str, Any]:
    """Return what SkyPilot makes of a task, without what it adds."""
    task = sky.Task.from_yaml_config(copy.deepcopy(dict(document)))
    config: dict[str, Any] = task.to_yaml_config()
    config.pop("_user_specified_yaml")
    assert config["resources"].pop("_requires_fuse")
    assert config.pop("volumes") == {}
    for mount in config["file_mounts"].values():
        assert mount.pop("persistent")
    [(name, count)] = config["resources"]["accelerators"].items()
    config["resources"]["accelerators"] = f"{name}:{count}"
    return config


def test_skypilot_reads_all_of_the_file(default_project: Path) -> None:
    file = default_project / "launch" / "skypilot.yaml"
    task = sky.Task.from_yaml(str(file))
    task.validate_run()
    assert task.num_nodes == 2
    document = read(default_project)
    assert round_trip(document) == document


def test_a_misspelt_key_is_noticed_at_every_level(default_project: Path) -> None:
    document = read(default_project)
    tried = []
    for path, wrong in misspelt(document, lambda path: path in FREE):
        tried.append(path)
        try:
            assert round_trip(wrong) != wrong, path
        except ValueError as error:
            assert "nvalid" in str(error) or "not allowed" in str(error), (path, error)
    assert "resources/job_recovery/recover_on_exit_codes" in tried
    assert "file_mounts//runs/mode" in tried


def test_the_strategy_and_the_mode_are_skypilots(default_project: Path) -> None:
    document = read(default_project)
    recovery = document["resources"]["job_recovery"]
    assert JOBS_RECOVERY_STRATEGY_REGISTRY.from_str(recovery["strategy"])
    assert document["file_mounts"]["/runs"]["mode"] in sky.StorageMode.__members__


def machines(project: Path, folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the command of each machine and its environment, as SkyPilot sets it."""
    text = read(project)["run"]
    for old, new in {"29500": str(free_port()), '"/runs/': f'"{folder}/runs/'}.items():
        assert text.count(old) == 1
        text = text.replace(old, new)
    before, after = text.split(" || code=$?")
    script = folder / "script.sh"
    script.write_text(f"{before} $FLAGS || code=$?{after}", encoding="utf-8")
    (folder / "venv" / "bin").mkdir(parents=True, exist_ok=True)
    (folder / "venv" / "bin" / "activate").touch()
    common = environment_of(project, folder / "tools") | {
        "HOME": str(folder),
        "RUN_NAME": "train",
        "SKYPILOT_NUM_NODES": "2",
        "SKYPILOT_NODE_IPS": "127.0.0.1\n127.0.0.2",
        "SKYPILOT_NUM_GPUS_PER_NODE": "0",
        "FLAGS": " ".join(FLAGS),
    }
    command = ["bash", str(script)]
    return command, [common | {"SKYPILOT_NODE_RANK": rank} for rank in ("0", "1")]


def test_two_machines_train_and_one_that_is_preempted_costs_no_step(
    default_project: Path, tmp_path: Path, undisturbed: Run
) -> None:
    command, environments = machines(default_project, tmp_path)
    run = Run(tmp_path / "runs" / "train")
    with nodes(command, environments, cwd=default_project) as started:
        wait_for_steps(run, 5)
        stopped_at = time.monotonic()
        started[1].stop()
        ends = [node.finish() for node in started]
        # SkyPilot kills what is left after that.
        assert max(node.ended_at for node in started) < stopped_at + 30
    # One of the codes is enough for SkyPilot.
    assert [code for code, _ in ends] == [1, 85], [printed[-2000:] for _, printed in ends]
    assert run.summary["stopped_by"] == "SIGTERM"
    with nodes(command, environments, cwd=default_project) as started:
        for node in started:
            code, printed = node.finish()
            assert code == 0, printed[-4000:]
    assert earlier_starts(run) == 1
    assert (run.summary["placement"], run.summary["world_size"]) == ("ddp", 2)
    assert_same_bits(run, undisturbed)


@pytest.mark.parametrize(
    ("code", "is_stopped", "expected"), [(0, False, 0), (1, False, 1), (1, True, 85), (0, True, 0)]
)
def test_only_a_run_that_a_signal_ended_exits_with_the_code_to_recover_on(
    code: int, is_stopped: bool, expected: int, default_project: Path, tmp_path: Path
) -> None:
    command, environments = machines(default_project, tmp_path)
    torchrun = tmp_path / "tools" / "torchrun"
    wait = "touch ready; while true; do sleep 0.1; done" if is_stopped else "true"
    torchrun.write_text(f"#!/bin/bash\ntrap 'exit {code}' TERM\necho \"$@\"\n{wait}\nexit {code}\n")
    gpus = {"SKYPILOT_NUM_GPUS_PER_NODE": "8"}
    with nodes(command, [environments[1] | gpus], cwd=tmp_path) as [node]:
        if is_stopped:
            wait_for((tmp_path / "ready").exists, "torchrun")
            node.stop()
        found, printed = node.finish()
    assert found == expected
    flags = "--nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr 127.0.0.1 --master-port "
    assert printed.startswith(flags)
