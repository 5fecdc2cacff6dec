import os
from dataclasses import replace

import pytest
import torch
from torch.distributed.fsdp import FSDPModule

from my_run.batches.plan import Plan, make_plan
from my_run.checkpoint.progress import Progress
from my_run.distributed.accelerator import (
    check_launcher,
)
from my_run.distributed.devices import find_devices
from my_run.run.plan_table import plan_rows
from my_run.run.trial import Trial
from my_run.settings.config_file import parse_config
from my_run.settings.errors import SettingError
from my_run.settings.run_config import Placement

from .tiny.config import TrainConfig


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in os.environ:
        ours = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        if name in ours or name.startswith("ACCELERATE_"):
            monkeypatch.delenv(name)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


@pytest.mark.parametrize("placement", ["auto", "cpu", "single", "data_parallel"])
def test_one_process_on_a_cpu_is_one_replica(placement: Placement) -> None:
    devices = find_devices(TrainConfig(placement=placement))

    assert devices.device == torch.device("cpu") and devices.data_parallel_size == 1
    assert devices.strategy == ("data_parallel" if placement == "data_parallel" else "single")


@pytest.mark.parametrize("placement", ["auto", "cpu", "ddp"])
def test_a_launcher_of_two_processes_is_ddp(
    placement: Placement, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "1")
    devices = find_devices(TrainConfig(placement=placement))

    assert (devices.strategy, devices.rank, devices.data_parallel_size) == ("ddp", 1, 2)


@pytest.mark.parametrize(
    ("placement", "world_size", "advice"),
    [
        ("ddp", "1", "type: torchrun --nproc-per-node 2"),
        ("fsdp2", "1", "type: torchrun --nproc-per-node 2"),
        ("single", "2", "type: python -m"),
        ("data_parallel", "2", "type: python -m"),
    ],
)
def test_a_placement_that_the_launcher_does_not_provide_is_refused(
    placement: Placement, world_size: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setenv("RANK", "0")

    with pytest.raises(SettingError, match=advice):
        find_devices(TrainConfig(placement=placement))


@pytest.mark.usefixtures("four_gpus")
@pytest.mark.parametrize("strategy", [None, "data_parallel"])
def test_data_parallel_in_fp16_is_refused(strategy: str | None) -> None:
    config = TrainConfig(mixed_precision="fp16", placement="data_parallel", exact=False)

    with pytest.raises(
        SettingError, match="data_parallel does not support fp16; try --mixed-precision"
    ):
        find_devices(config, strategy)


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(SettingError, match="try --mixed-precision bf16"):
        find_devices(TrainConfig(mixed_precision="fp16"))


def test_a_precision_that_only_the_launcher_was_told_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")

    with pytest.raises(SettingError, match="try --mixed-precision bf16"):
        check_launcher(TrainConfig(), find_devices(TrainConfig()))
    config = TrainConfig(mixed_precision="bf16")
    check_launcher(config, find_devices(config))


def test_fsdp2_by_accelerate_on_a_cpu_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    config = TrainConfig(placement="fsdp2", exact=False)

    with pytest.raises(SettingError, match=r"needs an accelerator.*reference\.fsdp2"):
        check_launcher(config, find_devices(config))
    assert find_devices(config, "fsdp2").strategy == "fsdp2"


@pytest.mark.parametrize(("world_size", "is_exact"), [("1", False), ("2", True)])
def test_the_fsdp2_reference_is_exact_on_several_processes_only(
    world_size: str, is_exact: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setattr(FSDPModule, "set_custom_reduce_scatter", None, raising=False)

    assert find_devices(TrainConfig(), "fsdp2").exact == is_exact


def test_fsdp2_before_torch_2_9_is_exact_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    monkeypatch.delattr(FSDPModule, "set_custom_reduce_scatter", raising=False)
    config = TrainConfig()
    devices = find_devices(config, "fsdp2")

    assert not devices.exact and "torch 2.9" in rows_of(make_plan(config, devices, 100))["Exact"]
    with pytest.raises(SettingError, match=r"since torch 2\.9, and this is .*try --no-exact$"):
        find_devices(TrainConfig(placement="fsdp2"), "fsdp2")


def test_a_reference_refuses_another_placement() -> None:
    with pytest.raises(SettingError, match="strategy is ddp, not single"):
        find_devices(TrainConfig(placement="single"), "ddp")


def test_the_plan_says_what_the_passes_of_a_step_cost() -> None:
    config = TrainConfig(global_batch_size=32, micro_batch_size=4, placement="cpu")
    devices = find_devices(config, "single")
    text = rows_of(make_plan(config, devices, 100), 0.4)["Passes"]
    whole = make_plan(replace(config, micro_batch_size=32), devices, 100)

    assert text.startswith("8 per step, for the same bits on more processes; one ")
    assert text.endswith("(--no-exact --micro-batch-size 32) takes 40% of their time here")
    assert "Passes" not in rows_of(whole, 0.4)
    on_two = make_plan(config, replace(devices, world_size=2), 100)
    assert rows_of(on_two)["Passes"].endswith("(--no-exact --micro-batch-size 16) is faster")


def rows_of(plan: Plan, part: float | None = None) -> dict[str, str]:
    return plan_rows(plan, Progress(), torch.nn.Linear(2, 2), Trial([], [], 1, 0.0, part))


def test_the_plan_says_what_is_unusual_in_the_model() -> None:
    config = TrainConfig()
    plan = make_plan(config, find_devices(config, "single"), 100)
    model = torch.nn.Linear(2, 2)
    model.weight.requires_grad_(False)
    rows = plan_rows(plan, Progress(), model, Trial(["bias"], ["mask"], 1, 0.0, None, ("head",)))
    assert rows["Frozen"] == "weight" and rows["No gradient"].startswith("bias; skipped in steps")
    assert rows["Training mode"].startswith("head, which make_model left in evaluation mode; ")
    assert rows["State"] == "mask; changed by forward passes: differs by placement"
    assert rows["Exact"].endswith("these versions; but for that state")
    assert rows_of(plan)["Exact"].endswith("these versions")


@pytest.fixture
def four_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: torch.device("cuda"))
    monkeypatch.setattr(torch.accelerator, "device_count", lambda: 4)


@pytest.mark.usefixtures("four_gpus")
def test_one_process_that_sees_four_gpus_uses_data_parallel_and_prints_the_faster_command() -> None:
    config = TrainConfig()
    devices = find_devices(config)
    rows = rows_of(make_plan(config, devices, num_train_samples=100))

    assert (devices.strategy, devices.data_parallel_size) == ("data_parallel", 4)
    assert "faster: torchrun --nproc-per-node 4 -m" in rows["Strategy"]
    assert not devices.exact and rows["Exact"].startswith("no, data_parallel cannot be")
    with pytest.raises(SettingError, match=r"cannot be exact.*try --no-exact"):
        find_devices(TrainConfig(placement="data_parallel"))
    with pytest.raises(SettingError, match="type: torchrun --nproc-per-node 4"):
        find_devices(TrainConfig(compile=True))


@pytest.mark.usefixtures("four_gpus")
def test_a_rank_has_the_device_of_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("RANK", "6")
    monkeypatch.setenv("LOCAL_RANK", "2")
    devices = find_devices(TrainConfig())

    assert (devices.device, devices.rank) == (torch.device("cuda", 2), 6)
    # Rank 0 must raise too: only it prints.
    monkeypatch.setenv("LOCAL_RANK", "0")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "5")
    with pytest.raises(SettingError, match=r"5 processes .* the 4 device.*type: torchrun"):
        find_devices(TrainConfig())


@pytest.mark.parametrize(
    ("world_size", "sizes"), [("1", "1, 2, 4, 8"), ("4", "1, 2, 4, 8"), ("3", "3, 6, 12")]
)
def test_the_plan_lists_the_world_sizes_with_the_same_bits(
    world_size: str, sizes: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setenv("RANK", "0")
    config = TrainConfig(global_batch_size=96 if world_size == "3" else 64)
    rows = rows_of(make_plan(config, find_devices(config), num_train_samples=100))

    assert f"on {sizes} processes" in rows["Exact"]


def test_the_plan_counts_steps_and_what_an_epoch_leaves_out() -> None:
    config = TrainConfig(epochs=3, global_batch_size=32, micro_batch_size=8)
    plan = make_plan(config, find_devices(config), num_train_samples=100)

    assert (plan.steps_per_epoch, plan.total_steps) == (3, 9)
    assert plan.gradient_accumulation_steps == plan.passes_per_step == 4
    rows = rows_of(plan)
    assert rows["Epoch"] == "3 steps, 96 of 100 samples; 4 left out, others in each epoch"
    assert "6 parameters" in rows["Model"]


def test_max_steps_overrides_epochs() -> None:
    config = TrainConfig(epochs=3, max_steps=5)

    assert make_plan(config, find_devices(config), num_train_samples=100).total_steps == 5


@pytest.mark.parametrize(
    ("world_size", "micro_batch_size", "advice"),
    [
        ("1", 8, "--global-batch-size 96"),
        ("8", 8, "--global-batch-size 64"),
        ("2", 64, "--global-batch-size 100 --micro-batch-size 50"),
    ],
)
def test_a_global_batch_larger_than_the_training_set_is_refused(
    world_size: str, micro_batch_size: int, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)
    monkeypatch.setenv("RANK", "0")
    config = TrainConfig(global_batch_size=128, micro_batch_size=micro_batch_size)

    with pytest.raises(SettingError, match=f"100 training samples; try {advice}$"):
        make_plan(config, find_devices(config), num_train_samples=100)
    advised = parse_config(TrainConfig, advice.split())
    assert make_plan(advised, find_devices(advised), num_train_samples=100).steps_per_epoch == 1
