from collections.abc import Callable

import pytest
import torch

from my_run.run.schedule import (
    scale_learning_rates,
    warmup_cosine,
    warmup_linear,
)


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear])
def test_the_rate_rises_to_the_peak_and_falls_towards_zero(
    schedule: Callable[[int, int, int], float],
) -> None:
    curve = [schedule(step, 4, 23) for step in range(1, 24)]

    assert curve[:4] == [0.25, 0.5, 0.75, 1.0]
    assert curve[3:] == sorted(curve[3:], reverse=True)
    assert curve[13] == pytest.approx(0.5)  # Half-way between step 4 and 24, where it would be 0.
    assert 0 < curve[-1] <= 0.05


def test_the_cosine_agrees_with_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    expected = rates_of(optimizer, torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=11))

    assert [warmup_cosine(step, 0, 10) for step in range(1, 11)] == pytest.approx(expected)


def test_the_line_agrees_with_that_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    linear = torch.optim.lr_scheduler.LinearLR(
        optimizer, start_factor=1.0, end_factor=0.0, total_iters=11
    )

    assert [warmup_linear(step, 0, 10) for step in range(1, 11)] == pytest.approx(
        rates_of(optimizer, linear)
    )


def rates_of(
    optimizer: torch.optim.Optimizer, scheduler: torch.optim.lr_scheduler.LRScheduler
) -> list[float]:
    rates = []
    for _ in range(10):
        optimizer.step()
        scheduler.step()
        rates.append(float(scheduler.get_last_lr()[0]))
    return rates


@pytest.mark.parametrize("schedule", [warmup_cosine, warmup_linear])
def test_a_run_shorter_than_its_warm_up_only_rises(
    schedule: Callable[[int, int, int], float],
) -> None:
    assert [schedule(step, 4, 2) for step in (1, 2)] == [0.25, 0.5]


def test_groups_keep_the_ratio_of_their_rates() -> None:
    groups = [{"params": [torch.zeros(1)], "lr": rate} for rate in (0.5, 0.05)]
    optimizer = torch.optim.SGD(groups)
    for factor in (0.5, 1.0, 0.25):
        highest = scale_learning_rates(optimizer, factor)
        assert [group["lr"] for group in optimizer.param_groups] == [0.5 * factor, 0.05 * factor]
        assert highest == 0.5 * factor
