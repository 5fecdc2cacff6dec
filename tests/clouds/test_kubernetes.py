"""The TrainJob and its runtime: read by Kubeflow's models, and run as two pods would."""

import contextlib
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import kubeflow_trainer_api.models
import pytest
import yaml
from pydantic import ValidationError

from ..runs import Run, assert_same_bits
from .nodes import FLAGS, earlier_starts, environment_of, free_port, misspelt, nodes, wait_for_steps

FILES = ["trainjob.yaml", "training_runtime.yaml"]
# Mappings whose keys are the user's own.
FREE = {"labels", "limits", "requests"}


def read(project: Path, name: str) -> dict[str, Any]:
    text = (project / "launch" / name).read_text(encoding="utf-8")
    document: dict[str, Any] = yaml.safe_load(text)
    return document


def round_trip(document: Mapping[str, Any], kind: str) -> Any:
    """Return what Kubeflow's own model of this kind makes of a document."""
    model = getattr(kubeflow_trainer_api.models, f"TrainerV1alpha1{kind}")
    return model.from_dict(document).to_dict()


@pytest.mark.parametrize("name", FILES)
def test_kubeflow_reads_all_of_the_file(name: str, default_project: Path) -> None:
    document = read(default_project, name)
    assert document["apiVersion"] == "trainer.kubeflow.org/v1alpha1"
    assert round_trip(document, document["kind"]) == document


@pytest.mark.parametrize("name", FILES)
def test_a_misspelt_key_is_noticed_at_every_level(name: str, default_project: Path) -> None:
    document = read(default_project, name)
    tried = 0
    for path, wrong in misspelt(document, lambda path: path[-1:] != () and path[-1] in FREE):
        tried += 1
        # Raised where the key was required.
        with contextlib.suppress(ValidationError):
            assert round_trip(wrong, document["kind"]) != wrong, path
    assert tried > 20


def test_the_job_fits_the_runtimes(default_project: Path) -> None:
    job, runtime = (read(default_project, name) for name in FILES)
    # The names of Kubeflow's torch-distributed.
    [replicated] = runtime["spec"]["template"]["spec"]["replicatedJobs"]
    [container] = replicated["template"]["spec"]["template"]["spec"]["containers"]
    [patch] = job["spec"]["runtimePatches"]
    [patched] = patch["trainingRuntimeSpec"]["template"]["spec"]["replicatedJobs"]
    pod = patched["template"]["spec"]["template"]["spec"]
    assert patched["name"] == replicated["name"] == "node"
    assert [one["name"] for one in pod["containers"]] == [container["name"]] == ["node"]
    # Kubeflow refuses variables in a patch of this container, and those that it sets itself.
    assert "env" not in pod["containers"][0]
    assert not [one for one in job["spec"]["trainer"]["env"] if one["name"].startswith("PET_")]
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def pods(project: Path, folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """Return the command of each pod, and its environment as Kubeflow's plugin for torch sets it.

    Source: kubeflow/trainer v2.3.0, pkg/runtime/framework/plugins/torch/torch.go.
    """
    spec = read(project, "trainjob.yaml")["spec"]["trainer"]
    words = [*spec["command"], *spec["args"], *FLAGS]
    variables = environment_of(project, folder / "tools")
    variables |= {one["name"]: one["value"] for one in spec["env"] if "value" in one}
    pet = {
        "PET_NNODES": str(spec["numNodes"]),
        "PET_NPROC_PER_NODE": "1",
        "PET_MASTER_ADDR": "127.0.0.1",
        "PET_MASTER_PORT": str(free_port()),
    }
    # The kubelet puts the value in its place.
    command = [word.replace("$(RUN_NAME)", "train") for word in words]
    assert command != words
    return command, [
        variables | pet | {"PET_NODE_RANK": str(rank)} for rank in range(spec["numNodes"])
    ]


def test_two_pods_end_in_the_bits_of_one_process(
    default_project: Path, tmp_path: Path, undisturbed: Run
) -> None:
    command, environments = pods(default_project, tmp_path)
    with nodes(command, environments, cwd=tmp_path, is_container=True) as started:
        for node in started:
            code, printed = node.finish()
            assert code == 0, printed[-4000:]
    run = Run(tmp_path / "runs" / "train")
    assert (run.summary["placement"], run.summary["world_size"]) == ("ddp", 2)
    assert_same_bits(run, undisturbed)


@pytest.mark.parametrize("evicted", [0, 1])
def test_an_evicted_pod_saves_and_both_start_again(
    evicted: int, default_project: Path, tmp_path: Path, undisturbed: Run
) -> None:
    command, environments = pods(default_project, tmp_path)
    run = Run(tmp_path / "runs" / "train")
    with nodes(command, environments, cwd=tmp_path, is_container=True) as started:
        wait_for_steps(run, 5)
        stopped_at = time.monotonic()
        started[evicted].stop()
        ends = [node.finish() for node in started]
        # torchrun would wait five minutes for the other one after exit code 0.
        assert max(node.ended_at for node in started) < stopped_at + 60
    # A pod that has succeeded would not be started again.
    assert [code for code, _ in ends] == [1, 1], [printed[-2000:] for _, printed in ends]
    assert run.summary["stopped_by"] == "SIGTERM"
    assert run.summary["optimizer_steps"] < undisturbed.summary["optimizer_steps"]
    with nodes(command, environments, cwd=tmp_path, is_container=True) as started:
        for node in started:
            code, printed = node.finish()
            assert code == 0, printed[-4000:]
    assert earlier_starts(run) == 1
    assert_same_bits(run, undisturbed)


def test_a_checkpoint_may_take_longer_than_the_30_seconds_of_torchrun(
    default_project: Path, tmp_path: Path
) -> None:
    command, environments = pods(default_project, tmp_path)
    worker = tmp_path / "worker.sh"
    # It starts to save at SIGTERM, and takes 33 seconds.
    worker.write_text("trap 'sleep 33; touch saved; exit 85' TERM\ntouch ready\n" + WAIT)
    worker.chmod(0o755)
    own = command[: command.index("-m")]
    assert own[0] == "torchrun" and len(own) == 3
    command = [*own, "--no-python", "bash", str(worker)]
    alone = environments[0] | {"PET_NNODES": "1"}
    with nodes(command, [alone], cwd=tmp_path, is_container=True) as [node]:
        while not (tmp_path / "ready").exists():
            time.sleep(0.1)
        node.stop()
        node.finish()
    assert (tmp_path / "saved").exists()


WAIT = "while true; do sleep 0.2; done\n"
