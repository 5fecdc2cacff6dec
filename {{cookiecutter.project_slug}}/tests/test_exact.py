import itertools
import os
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from my_run.batches.plan import make_plan
from my_run.distributed.devices import find_devices
from my_run.exact.gradients import GradientSum
from my_run.exact.kernels import (
    use_deterministic_kernels,
)
from my_run.exact.tree import TreeSum, sum_rows

from .tiny.config import TrainConfig


def leaves(count: int) -> list[Tensor]:
    """Return tensors whose sum depends on the order of the additions."""
    generator = torch.Generator().manual_seed(count)
    exponents = torch.randint(-12, 12, (count, 50), generator=generator)
    return list(torch.randn(count, 50, generator=generator) * 2.0**exponents)


def tree_sum(values: list[Tensor]) -> Tensor:
    tree = TreeSum(len(values))
    copies = [value.clone() for value in values]
    for value in copies[:-1]:
        tree.add([value])
    tree.finish([copies[-1]])
    return copies[-1]


def halves(values: list[Tensor]) -> Tensor:
    """Return the sum as it is defined: halves while the number is even, then one by one."""
    if len(values) % 2 == 0:
        middle = len(values) // 2
        return halves(values[:middle]) + halves(values[middle:])
    return torch.stack(list(itertools.accumulate(values)))[-1]


@pytest.mark.parametrize("count", range(1, 33))
def test_the_tree_is_halves_and_odd_runs(count: int) -> None:
    values = leaves(count)

    assert torch.equal(tree_sum(values), halves(values))


@pytest.mark.parametrize("count", [8, 12, 16, 24, 48])
@pytest.mark.parametrize("smallest", [1, 3])
def test_shares_of_ranks_make_the_same_sum(count: int, smallest: int) -> None:
    """For world sizes whose ratio is a power of two: 1, 2, 4, ... or 3, 6, 12, ..."""
    values = leaves(count)
    sums = []
    for world_size in (smallest * 2**power for power in range(5)):
        if count % world_size == 0:
            share = count // world_size
            branches = [tree_sum(values[i : i + share]) for i in range(0, count, share)]
            sums.append(sum_rows(torch.stack(branches)))

    assert all(torch.equal(total, sums[0]) for total in sums)
    plain = torch.stack(list(itertools.accumulate(values)))[-1]
    torch.testing.assert_close(plain, halves(values), rtol=1e-3, atol=1e-3)
    assert count == 3 or not torch.equal(plain, halves(values)), "these sums must not be exact"


def test_only_the_chosen_tensors_of_a_tree_are_added() -> None:
    tree = TreeSum(2)
    tree.add([torch.tensor([1.0]), torch.tensor([10.0]), torch.tensor([100.0])])
    last = [torch.tensor([0.5]), torch.tensor([0.25])]
    tree.finish(last, indices=[2, 0])

    assert [value.item() for value in last] == [100.5, 1.25]


@pytest.mark.parametrize("is_used_in", [{0, 1, 2}, {3}, set()])
def test_a_parameter_may_take_part_in_some_passes_or_none(is_used_in: set[int]) -> None:
    """As with layers that are dropped at random, or weights that nothing uses."""
    config = TrainConfig(global_batch_size=32, micro_batch_size=8, placement="single")
    plan = make_plan(config, find_devices(config, "single"), num_train_samples=100)
    steps: dict[bool, list[list[Tensor | None]]] = {True: [], False: []}
    for exact, gradients in steps.items():
        always, sometimes = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))
        model = nn.ParameterList([always, sometimes])
        devices = replace(plan.devices, exact=exact)
        gradient_sum = GradientSum(model, replace(plan, devices=devices))
        for used_in in (is_used_in, set()):
            for k in plan.passes:
                loss = always.sum() * 2
                if k in used_in:
                    loss = loss + sometimes.sum() * 2.0**k
                torch.autograd.backward(loss)
                gradient_sum.collect()
            gradients.append([always.grad, sometimes.grad])
            model.zero_grad()

    total = torch.full((3,), float(sum(2**micro_batch for micro_batch in is_used_in)))
    for gradients in steps.values():
        for (always_sum, sometimes_sum), expected in zip(
            gradients, [total, 0 * total], strict=True
        ):
            assert always_sum is not None and torch.equal(always_sum, torch.full((3,), 8.0))
            # Without a sum in order, it is None where no pass has one: `StepSums` makes it zero.
            found = torch.zeros(3) if sometimes_sum is None else sometimes_sum
            assert torch.equal(found, expected)


class Products(nn.Module):
    """Two parameters of one kind, multiplied by factors, which are others in each pass."""

    def __init__(self, values: Tensor) -> None:
        super().__init__()
        self.first = nn.Parameter(values)
        self.second = nn.Parameter(values)

    def forward(self, factors: Tensor) -> Tensor:
        products = (self.first + self.second.conj()) * factors
        return torch.view_as_real(products.to(torch.cfloat)).sum()


@pytest.mark.parametrize(
    "values",
    [
        torch.ones(4, 3, 2, 2).to(memory_format=torch.channels_last),
        torch.ones(4, 3, dtype=torch.cfloat),
        torch.ones(4, 3, dtype=torch.cfloat).T,
        torch.ones(3, 5).T,
        torch.ones(4, 6)[:, ::2],
        torch.ones(()),
    ],
    ids=["channels_last", "complex", "complex_transposed", "transposed", "with_gaps", "scalar"],
)
def test_ddp_sums_gradients_of_any_layout(
    values: Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = TrainConfig(global_batch_size=32, micro_batch_size=8, placement="single")
    devices = replace(find_devices(config, "single"), exact=True)
    plan = make_plan(config, devices, num_train_samples=100)
    generator = torch.Generator().manual_seed(0)
    factors = [torch.randn(values.shape, generator=generator) for _ in plan.passes]

    def gradients_of(model: nn.Module) -> list[Tensor | None]:
        gradient_sum = GradientSum(model, plan)
        for k in plan.passes:
            syncing: AbstractContextManager[None] = nullcontext()
            if isinstance(model, DistributedDataParallel) and k != plan.passes[-1]:
                syncing = model.no_sync()
            with syncing:
                torch.autograd.backward(model(factors[k]))
            gradient_sum.collect()
        return [parameter.grad for parameter in model.parameters()]

    # PyTorch replaces it, for good, by one that writes the rank before each line.
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    dist.init_process_group("gloo", f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        parallel = gradients_of(DistributedDataParallel(Products(values)))
    finally:
        dist.destroy_process_group()
    total = torch.stack(factors).sum(dim=0)
    for one, other in zip(parallel, gradients_of(Products(values)), strict=True):
        assert one is not None and other is not None
        assert torch.equal(one, other)
        torch.testing.assert_close(one.real, total)


@pytest.mark.parametrize(
    ("config", "threads"),
    [
        (TrainConfig(placement="single"), 1),
        (TrainConfig(placement="single", threads=3), 3),
        (TrainConfig(placement="single", threads=3, exact=False), 3),
    ],
)
def test_accelerate_keeps_the_number_of_threads(
    config: TrainConfig, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With one process a machine no launcher sets the variable: it would take every core."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    before = torch.get_num_threads()
    use_deterministic_kernels(config, find_devices(config, "single"))

    assert (os.environ["OMP_NUM_THREADS"], torch.get_num_threads()) == (str(threads), threads)
    torch.set_num_threads(before)
