"""The sums of a step: losses, items, gradients and BatchNorm statistics."""

import copy
import itertools
import math
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence
from torch.utils.checkpoint import checkpoint

from my_run.batches.plan import Plan, make_plan
from my_run.batches.structure import (
    concatenate,
    to_device,
)
from my_run.distributed.devices import find_devices
from my_run.exact.average import WeightAverage
from my_run.exact.step import StepSums
from my_run.settings.errors import SettingError

from .tiny.config import TrainConfig

CPU = torch.device("cpu")
NUM_SAMPLES, WIDTH = 32, 5


def plan_of(micro_batch_size: int, *, exact: bool) -> Plan:
    config = TrainConfig(global_batch_size=NUM_SAMPLES, micro_batch_size=micro_batch_size)
    plan = make_plan(config, find_devices(config, "single"), 1000)
    return replace(plan, devices=replace(plan.devices, exact=exact))


def tokens() -> tuple[Tensor, Tensor, Tensor]:
    """Return inputs, targets and mask of sequences of 1 to 12 tokens, padded."""
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(NUM_SAMPLES, 12, WIDTH, generator=generator)
    targets = torch.randn(NUM_SAMPLES, 12, generator=generator)
    lengths = torch.randint(1, 13, (NUM_SAMPLES, 1), generator=generator)
    return inputs, targets, torch.arange(12) < lengths


def sum_of_losses(model: nn.Module, inputs: Tensor, targets: Tensor, mask: Tensor) -> Tensor:
    losses = (model(inputs).squeeze(2) - targets).square() * mask
    total: Tensor = losses.sum()
    return total


@pytest.mark.parametrize(
    ("micro_batch_size", "exact"), [*itertools.product([1, 4, 8, 32], [True, False])]
)
def test_the_gradient_is_that_of_one_batch_whatever_the_number_of_tokens(
    micro_batch_size: int, exact: bool
) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(WIDTH, 8), nn.Tanh(), nn.Linear(8, 1))
    inputs, targets, mask = tokens()
    plan = plan_of(micro_batch_size, exact=exact)
    sums = StepSums(model, model, plan, [], None)
    for _ in range(2):  # Two steps: nothing is left of the first.
        model.zero_grad()
        for k in plan.passes:
            part = slice(k * micro_batch_size, (k + 1) * micro_batch_size)
            loss = sum_of_losses(model, inputs[part], targets[part], mask[part])
            torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
            items = mask[part].sum()
            # Some code returns a number where nothing is left out.
            sums.collect(k, loss, items if k else int(items))
        sums.finish()

    found = [parameter.grad for parameter in model.parameters()]
    model.double()
    loss = sum_of_losses(model, inputs.double(), targets.double(), mask) / mask.sum()
    expected = torch.autograd.grad(loss, list(model.parameters()))
    for gradient, one in zip(found, expected, strict=True):
        assert gradient is not None
        torch.testing.assert_close(gradient.double(), one, rtol=1e-5, atol=1e-7)
    assert sums.mean_loss() == pytest.approx((loss.item(), mask.sum().item()), rel=1e-6)


def test_a_constant_number_of_items_divides_the_gradient_once() -> None:
    """As of blocks of text: each sample has three items."""
    model = nn.Linear(WIDTH, 3)
    inputs, targets = torch.randn(NUM_SAMPLES, WIDTH), torch.randn(NUM_SAMPLES, 3)
    plan = plan_of(8, exact=False)
    sums = StepSums(model, model, plan, [], 3)
    for k in plan.passes:
        part = slice(8 * k, 8 * k + 8)
        loss = (model(inputs[part]) - targets[part]).square().sum()
        torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
        sums.collect(k, loss, 24)
    sums.finish()

    loss = (model(inputs) - targets).square().mean()
    [expected] = torch.autograd.grad(loss, [model.weight])
    assert model.weight.grad is not None
    torch.testing.assert_close(model.weight.grad, expected)
    mean, items = sums.mean_loss()
    assert mean == pytest.approx(loss.item(), rel=1e-6) and items == 3 * NUM_SAMPLES


def test_a_number_of_items_that_is_not_that_of_the_samples_is_refused() -> None:
    model = nn.Linear(1, 1)
    sums = StepSums(model, model, plan_of(8, exact=False), [], 1)
    with pytest.raises(SettingError, match=r"returned 7 as the number of items of 8 samples"):
        sums.collect(0, torch.ones(()), 7)
    # The other ranks would not add it up.
    with pytest.raises(SettingError, match=r"returned a tensor as the number .* every micro-batch"):
        sums.collect(0, torch.ones(()), torch.tensor(8))


def two_layers() -> tuple[nn.BatchNorm1d, nn.BatchNorm1d]:
    """Return a layer for `StepSums`, and one that PyTorch alone updates; seed what they get."""
    torch.manual_seed(0)
    return nn.BatchNorm1d(WIDTH, momentum=0.2), nn.BatchNorm1d(WIDTH, momentum=0.2)


def assert_same_statistics(model: nn.BatchNorm1d, other: nn.BatchNorm1d, num_uses: int) -> None:
    assert model.num_batches_tracked is not None and other.num_batches_tracked is not None
    assert model.num_batches_tracked.item() == other.num_batches_tracked.item() == num_uses
    torch.testing.assert_close(model.running_mean, other.running_mean, rtol=1e-6, atol=1e-6)
    torch.testing.assert_close(model.running_var, other.running_var, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("exact", [True, False])
def test_running_statistics_are_those_of_the_micro_batches_in_order(exact: bool) -> None:
    model, other = two_layers()
    plan = plan_of(8, exact=exact)
    sums = StepSums(model, model, plan, [], 1)
    for _ in range(3):
        for k in plan.passes:
            batch = torch.randn(8, WIDTH) * 3 + 1
            other(batch)
            loss = model(batch).sum()
            torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
            sums.collect(k, loss, 8)
        sums.finish()

    assert_same_statistics(model, other, num_uses=12)


def test_a_micro_batch_that_does_not_use_a_layer_leaves_its_statistics() -> None:
    """As a branch does; a pass in evaluation mode, as of a teacher, has the running ones."""
    model, other = two_layers()
    plan = plan_of(8, exact=True)
    sums = StepSums(model, model, plan, [], 1)
    for step in range(3):
        teacher = copy.deepcopy(other).eval()
        for k in plan.passes:
            batch = torch.randn(8, WIDTH) * 3 + 1
            torch.testing.assert_close(model.eval()(batch), teacher(batch))
            if k % 2 == step % 2:
                other(batch)
                loss = model.train()(batch).sum()
            else:
                loss = torch.zeros((), requires_grad=True)
            torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
            sums.collect(k, torch.ones(()), 8)
        sums.finish()

    assert_same_statistics(model, other, num_uses=6)


def test_a_layer_may_be_used_several_times_and_evaluated_in_between() -> None:
    """As with two views of each image, or labels from the model itself."""
    model, other = two_layers()
    plan = plan_of(8, exact=True)
    sums = StepSums(model, model, plan, [], 1)
    for _ in range(3):
        for k in plan.passes:
            views = torch.randn(2, 8, WIDTH) * 3 + 1
            for view in views:
                other.train()(view)
            loss = torch.stack([model.train()(view).sum() for view in views]).sum()
            if k == 0:
                torch.testing.assert_close(model.eval()(views[0]), other.eval()(views[0]))
            torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
            sums.collect(k, loss, 8)
        sums.finish()

    assert_same_statistics(model, other, num_uses=24)


@pytest.mark.parametrize("devices", [1, 2])
def test_what_activation_checkpoints_compute_again_does_not_count(devices: int) -> None:
    model, other = two_layers()
    plan = plan_of(8, exact=False)
    plan = replace(plan, devices=replace(plan.devices, devices_per_process=devices))
    sums = StepSums(model, model, plan, [], 1)
    for _ in range(2):
        for k in plan.passes:
            batch = torch.randn(8, WIDTH) * 3 + 1
            other(batch)
            loss = checkpoint(model, batch.requires_grad_(), use_reentrant=False).square().sum()
            torch.autograd.backward(sums.per_item(loss))
            sums.collect(k, loss, 8 * devices)
        sums.finish()

    assert_same_statistics(model, other, num_uses=2 * len(plan.passes))


def test_statistics_of_a_replica_of_data_parallel_are_collected() -> None:
    """Of the first, whose buffers are those of the model."""
    model, other = two_layers()
    plan = plan_of(8, exact=False)
    plan = replace(plan, devices=replace(plan.devices, devices_per_process=2))
    sums = StepSums(model, model, plan, [], 1)
    for _ in range(3):
        for k in plan.passes:
            for view in torch.randn(2, 8, WIDTH) * 3 + 1:
                other(view)
                loss = model(view).sum()
            sums.per_item(loss)
            sums.collect(k, torch.ones(()), 16)
        sums.finish()

    assert_same_statistics(model, other, num_uses=3 * len(plan.passes) * 2)


@pytest.mark.parametrize("exact", [True, False])
def test_a_micro_batch_or_a_step_may_have_no_loss(exact: bool) -> None:
    """As where no pair of samples is close enough."""
    model = nn.Linear(1, 1)
    plan = plan_of(8, exact=exact)
    sums = StepSums(model, model, plan, [], None)
    for num_items, expected in ((4.0, 32 / 4), (0.0, 0.0)):
        model.zero_grad()
        for k in plan.passes:
            has_loss = num_items and k == 1
            loss = model(torch.ones(8, 1)).sum() * (4.0 if has_loss else 0.0)
            torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
            sums.collect(k, loss, torch.tensor(num_items if k == 1 else 0.0))
        sums.finish()
        assert model.weight.grad is not None and model.weight.grad.item() == expected
    assert math.isnan(sums.mean_loss()[0])
    with pytest.raises(SettingError, match=r"without the model in it, which DDP and FSDP2 need"):
        sums.per_item(torch.zeros(()))


@pytest.mark.parametrize("without_gradient", [["optional.weight", "optional.bias"], []])
def test_parameters_go_without_a_gradient_if_one_did_in_the_trial(
    without_gradient: list[str],
) -> None:
    model = nn.ModuleDict({name: nn.Linear(1, 1) for name in ("used", "optional", "dropped")})
    plan = plan_of(8, exact=False)
    sums = StepSums(model, model, plan, without_gradient, 1)
    uses = [["used"], ["used", "optional"], ["used"]]
    found: list[dict[str, bool]] = []
    for names in uses:
        model.zero_grad()
        for k in plan.passes:
            chosen = names if k == 1 else ["used"]
            loss = torch.stack([model[name](torch.ones(8, 1)).sum() for name in chosen]).sum()
            torch.autograd.backward(sums.per_item(loss) / len(plan.passes))
            sums.collect(k, loss, 8)
        sums.finish()
        found.append({name: p.grad is not None for name, p in model.named_parameters()})

    has_some = not without_gradient
    assert [step["optional.weight"] for step in found] == [has_some, True, has_some]
    assert [step["dropped.weight"] for step in found] == [has_some] * 3
    assert all(step["used.weight"] for step in found)


class Pair(NamedTuple):
    left: Any
    right: Any


@dataclass
class Boxes:
    corners: Tensor
    names: list[str]


class Own:
    """A batch class as some libraries have it."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor

    def to(self, device: torch.device) -> "Own":
        return Own(self.tensor.to(device))


def test_a_batch_of_any_structure_is_moved() -> None:
    boxes = Boxes(torch.ones(2), ["a", "b"])
    batch = {"pair": Pair(torch.ones(1), [torch.ones(2), "text"]), "boxes": boxes, "n": 3}
    moved = to_device({**batch, "own": Own(torch.ones(1))}, torch.device("meta"))

    assert isinstance(moved["pair"], Pair) and isinstance(moved["boxes"], Boxes)
    tensors = [moved["pair"].left, moved["pair"].right[0], moved["boxes"].corners]
    assert {tensor.device.type for tensor in [*tensors, moved["own"].tensor]} == {"meta"}
    assert (moved["pair"].right[1], moved["boxes"].names, moved["n"]) == ("text", ["a", "b"], 3)
    assert boxes.corners.device == CPU


def test_a_container_that_can_move_itself_does() -> None:
    """It knows which of its tensors stay on the CPU, as these lengths do."""
    packed = pack_sequence([torch.ones(3, 1), torch.ones(2, 1)])
    moved = to_device({"packed": packed}, torch.device("meta"))["packed"]
    assert (moved.data.device.type, moved.batch_sizes.device.type) == ("meta", "cpu")


def test_batches_are_concatenated_or_refused() -> None:
    joined = concatenate([{"x": (torch.zeros(2, 3),)}, {"x": (torch.ones(1, 3),)}])
    assert joined["x"][0].tolist() == [[0.0] * 3, [0.0] * 3, [1.0] * 3]
    with pytest.raises(ValueError, match="Sizes of tensors must match"):
        concatenate([torch.zeros(2, 3), torch.zeros(2, 4)])
    with pytest.raises(ValueError, match="a str cannot be concatenated"):
        concatenate([("a",), ("b",)])


def test_the_average_is_that_of_the_weights_after_each_step() -> None:
    model = nn.Linear(2, 1, bias=False)
    average, expected = WeightAverage(model, decay=0.5), model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight += step
        average.add(step)
        decay = min(0.5, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * model.weight.detach()
    weights = model.weight.detach().clone()
    with pytest.raises(ZeroDivisionError), average.applied():
        torch.testing.assert_close(model.weight.detach(), expected)
        raise ZeroDivisionError

    assert torch.equal(model.weight.detach(), weights)
    assert not torch.allclose(weights, expected)


def test_an_average_that_is_off_costs_and_changes_nothing() -> None:
    model = nn.Linear(2, 1)
    average = WeightAverage(model, decay=0.0)
    before = model.weight.detach().clone()
    average.add(1)
    with average.applied():
        assert torch.equal(model.weight.detach(), before)
