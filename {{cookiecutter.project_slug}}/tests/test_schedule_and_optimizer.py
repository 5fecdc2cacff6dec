import pytest
import torch

from my_run.config import TrainConfig
from my_run.optimizer import (
    learning_rate_factor,
    make_optimizer,
    set_learning_rate,
)


def rates(total_steps: int, warmup_steps: int) -> list[float]:
    config = TrainConfig(learning_rate=2.0, warmup_steps=warmup_steps)
    steps = range(1, total_steps + 1)
    return [2.0 * learning_rate_factor(step, config, total_steps) for step in steps]


def test_the_rate_rises_to_the_peak_and_falls_towards_zero() -> None:
    curve = rates(total_steps=23, warmup_steps=4)

    assert curve[:4] == [0.5, 1.0, 1.5, 2.0]
    assert curve[3:] == sorted(curve[3:], reverse=True)
    assert curve[13] == pytest.approx(1.0)  # half-way between step 4 and 24, where it would be 0
    assert 0 < curve[-1] < 0.02


def test_the_rate_agrees_with_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=2.0)
    reference = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=11)
    expected = []
    for _ in range(10):
        optimizer.step()
        reference.step()
        expected.append(reference.get_last_lr()[0])

    assert rates(total_steps=10, warmup_steps=0) == pytest.approx(expected)


def test_a_run_shorter_than_its_warm_up_only_rises() -> None:
    assert rates(total_steps=2, warmup_steps=4) == [0.5, 1.0]


def test_only_kernels_and_matrices_decay() -> None:
    model = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.LayerNorm(3))
    optimizer = make_optimizer(model, TrainConfig(weight_decay=0.1))
    decay = {
        id(parameter): group["weight_decay"]
        for group in optimizer.param_groups
        for parameter in group["params"]
    }

    assert {name: decay[id(p)] for name, p in model.named_parameters()} == {
        "0.weight": 0.1,
        "0.bias": 0.0,
        "1.weight": 0.0,
        "1.bias": 0.0,
    }
    assert {(group["momentum"], group["nesterov"]) for group in optimizer.param_groups} == {
        (0.9, True)
    }


def test_groups_keep_the_ratio_of_their_rates() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.5, 0.05)]
    optimizer, config = torch.optim.SGD(groups), TrainConfig(warmup_steps=4)
    for step, factor in ((2, 0.5), (4, 1.0), (1, 0.25)):
        highest = set_learning_rate(optimizer, step, config, total_steps=10)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 0.05 * factor]
        assert highest == 0.5 * factor
