import itertools
import random
from collections import Counter

import numpy as np
import pytest
import torch

from my_run.batches.loaders import MicroBatchReader
from my_run.batches.plan import make_plan
from my_run.batches.sampling import (
    EvaluationSampler,
    MicroBatch,
    sample_order,
    train_micro_batches,
)
from my_run.batches.seeds import (
    ORDER_STREAM,
    derive_seed,
    seed_forward,
)
from my_run.distributed.devices import Devices

from .tiny.config import TrainConfig
from .tiny.data import load

NUM_SAMPLES, GLOBAL, MICRO = 103, 24, 3
STEPS_PER_EPOCH = 4


def micro_batches(
    rank: int = 0, world_size: int = 1, steps: range = range(1, 11), devices: int = 1
) -> list[list[MicroBatch]]:
    config = TrainConfig(
        global_batch_size=GLOBAL, micro_batch_size=MICRO, seed=7, max_steps=steps[-1]
    )
    job = Devices("ddp", torch.device("cpu"), rank, world_size, devices)
    plan = make_plan(config, job, num_train_samples=NUM_SAMPLES, start_step=steps[0] - 1)
    return list(train_micro_batches(plan))


def in_step_order(world_size: int) -> list[MicroBatch]:
    """Return the micro-batches of all ranks, step by step, in the order of their numbers."""
    shares = [micro_batches(rank, world_size) for rank in range(world_size)]
    per_step = GLOBAL // MICRO // world_size
    steps = [[share[i : i + per_step] for i in range(0, len(share), per_step)] for share in shares]
    return [batch for parts in zip(*steps, strict=True) for part in parts for [batch] in part]


@pytest.mark.parametrize("world_size", [2, 4, 8])
def test_every_world_size_computes_the_same_micro_batches(world_size: int) -> None:
    assert in_step_order(world_size) == in_step_order(1)


def test_data_parallel_takes_neighbours_in_one_pass() -> None:
    joined = list(itertools.chain.from_iterable(micro_batches(devices=4)))

    assert joined == in_step_order(1)
    assert {len(group) for group in micro_batches(devices=4)} == {4}


def test_a_sample_comes_at_most_once_an_epoch_and_the_order_changes() -> None:
    per_epoch = STEPS_PER_EPOCH * GLOBAL // MICRO
    batches = in_step_order(1)
    epochs = [
        [sample for batch in batches[start : start + per_epoch] for sample in batch.samples]
        for start in range(0, 2 * per_epoch, per_epoch)
    ]

    for epoch in epochs:
        assert len(epoch) == STEPS_PER_EPOCH * GLOBAL == len(set(epoch))
        assert set(epoch) <= set(range(NUM_SAMPLES))
    assert epochs[0] != epochs[1]
    assert set(epochs[0]) != set(epochs[1]), "the samples left over must change"


def test_the_order_takes_four_bytes_a_sample_and_is_that_of_int64() -> None:
    order = sample_order(NUM_SAMPLES, seed=7, epoch=3)
    generator = torch.Generator().manual_seed(derive_seed(7, ORDER_STREAM, 3))

    assert order.element_size() == 4
    assert order.tolist() == torch.randperm(NUM_SAMPLES, generator=generator).tolist()


def test_a_resumed_sampler_starts_at_its_step() -> None:
    assert micro_batches(steps=range(6, 11)) == micro_batches()[5 * GLOBAL // MICRO :]


def test_seeds_differ_by_seed_stream_step_and_micro_batch() -> None:
    keys = list(itertools.product(range(3), repeat=4))

    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert all(0 <= derive_seed(*key) < 2**63 for key in keys)


def test_a_forward_pass_draws_the_numbers_of_its_micro_batch() -> None:
    def drawn(micro_batch: int) -> list[float]:
        seed_forward(0, 3, range(micro_batch, micro_batch + 1))
        return [torch.rand(1).item(), float(np.random.rand()), random.random()]

    first, other = drawn(5), drawn(6)
    assert drawn(5) == first
    assert all(number != another for number, another in zip(first, other, strict=True))


@pytest.mark.parametrize("world_size", [1, 2, 3, 7])
@pytest.mark.parametrize("num_samples", [1, 8, 21, 103])
def test_evaluation_counts_each_sample_once_in_equally_many_batches_per_rank(
    num_samples: int, world_size: int
) -> None:
    samplers = [
        EvaluationSampler(num_samples, batch_size=8, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]
    times = Counter(
        sample for sampler in samplers for counted in sampler.counted() for sample in counted or ()
    )

    assert times == Counter(range(num_samples))
    assert len({len(list(sampler)) for sampler in samplers}) == 1


def test_the_last_batch_of_a_padded_evaluation_repeats_its_last_sample() -> None:
    sampler = EvaluationSampler(5, batch_size=4, is_padded=True)

    assert [batch.samples for [batch] in sampler] == [[0, 1, 2, 3], [4, 4, 4, 4]]
    assert list(sampler.counted()) == [range(0, 4), range(4, 5)]


class Numbers:
    """A data set with a random number of each generator beside the sample's own."""

    def __len__(self) -> int:
        return 9

    def __getitem__(self, index: int) -> tuple[float, int, float, float, float]:
        return index / 2, index, torch.rand(1).item(), np.random.rand(), random.random()


def test_a_data_set_may_read_sample_by_sample() -> None:
    halves, numbers, *_ = MicroBatchReader(Numbers())[[MicroBatch([1, 2], 0), MicroBatch([5], 0)]]

    assert halves.tolist() == [0.5, 1, 2.5] and numbers.tolist() == [1, 2, 5]


def test_random_numbers_of_samples_are_a_function_of_the_micro_batch() -> None:
    reader = MicroBatchReader(Numbers())
    micro_batch = MicroBatch([3, 1, 4], seed=11)
    first, again, other = (
        torch.stack(reader[[batch]][2:])
        for batch in (micro_batch, micro_batch, micro_batch._replace(seed=12))
    )

    assert torch.equal(first, again) and not (first == other).any()
    # No two samples of a micro-batch have the same.
    assert len({*first.flatten().tolist()}) == first.numel()


def test_augmentation_is_a_function_of_the_micro_batch() -> None:
    points = load("train", augmented=True)
    reader, micro_batch = MicroBatchReader(points), MicroBatch([3, 1, 4], seed=11)
    inputs, targets = reader[[micro_batch]]
    again, _ = reader[[micro_batch]]
    others, same_targets = reader[[micro_batch._replace(seed=12)]]

    assert torch.equal(inputs, again)
    assert not torch.equal(inputs, others) and torch.equal(targets, same_targets)
