import pytest
import torch

from {{ cookiecutter.__package_name }}.config import (
    Placement,
    SettingError,
    TrainConfig,
)
from {{ cookiecutter.__package_name }}.devices import find_devices
from {{ cookiecutter.__package_name }}.plan import make_plan


@pytest.fixture(autouse=True)
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WORLD_SIZE", "RANK", "ACCELERATE_MIXED_PRECISION", "ACCELERATE_USE_FSDP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda **_: None)


@pytest.mark.parametrize("placement", ["auto", "cpu", "single", "data_parallel"])
def test_one_process_on_a_cpu_is_one_replica(placement: Placement) -> None:
    devices = find_devices(TrainConfig(placement=placement))

    assert devices.device_type == "cpu" and devices.data_parallel_size == 1
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
        ("fsdp2", "2", "needs an accelerator.*try --placement ddp"),
        ("single", "2", "type: python -m"),
        ("data_parallel", "2", "type: python -m"),
    ],
)
def test_a_placement_that_the_launcher_does_not_give_is_refused(
    placement: Placement, world_size: str, advice: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WORLD_SIZE", world_size)

    with pytest.raises(SettingError, match=advice):
        find_devices(TrainConfig(placement=placement))


def test_fp16_on_a_cpu_is_refused() -> None:
    with pytest.raises(SettingError, match="try --mixed-precision bf16"):
        find_devices(TrainConfig(mixed_precision="fp16"))


def test_a_precision_that_only_the_launcher_was_told_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")

    with pytest.raises(SettingError, match="try --mixed-precision bf16"):
        find_devices(TrainConfig())
    assert find_devices(TrainConfig(mixed_precision="bf16")).strategy == "single"


def test_the_plan_counts_steps_and_what_an_epoch_leaves_out() -> None:
    config = TrainConfig(epochs=3, global_batch_size=32, micro_batch_size=8)
    plan = make_plan(config, find_devices(config), num_train_samples=100)

    assert (plan.steps_per_epoch, plan.total_steps) == (3, 9)
    assert plan.gradient_accumulation_steps == plan.passes_per_step == 4
    rows = plan.rows(torch.nn.Linear(2, 2))
    assert rows["Epoch"] == "3 steps, 96 of 100 samples; other 4 are left out each time"
    assert "6 parameters" in rows["Model"]


def test_max_steps_wins_over_epochs() -> None:
    config = TrainConfig(epochs=3, max_steps=5)

    assert make_plan(config, find_devices(config), num_train_samples=100).total_steps == 5


def test_more_samples_a_step_than_there_are_is_refused() -> None:
    config = TrainConfig(global_batch_size=128, micro_batch_size=8)

    with pytest.raises(SettingError, match="100 training samples; try --global-batch-size 96"):
        make_plan(config, find_devices(config), num_train_samples=100)
