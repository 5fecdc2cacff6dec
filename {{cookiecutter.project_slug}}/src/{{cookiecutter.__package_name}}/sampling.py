"""Which samples and which random numbers belong to which micro-batch: the rule of the whole run.

The unit of work is the micro-batch: number k of optimizer step s. Its samples, their augmentation
and the dropout of its forward pass depend on (seed, s, k) alone; the placement only decides which
rank computes it. So any number of processes takes the same steps, and going to any position of
the run costs arithmetic, not reading.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Sampler

# Each use of random numbers has a stream of its own, or augmentation and dropout would correlate.
ORDER_STREAM, DATA_STREAM, FORWARD_STREAM = 0, 1, 2
# Compiled code would draw dropout in a way of its own, and be another run: 1 % of the largest
# weight after 20 steps. So it agrees with the run that is not compiled to rounding.
COMPILE_OPTIONS: dict[str, Any] = {"fallback_random": True}


def derive_seed(seed: int, stream: int, *position: int) -> int:
    """Return a seed in [0, 2**63) for one use of random numbers at one position of the run.

    Source: numpy.random.SeedSequence, which is made to give independent streams from such keys.
    """
    state = np.random.SeedSequence((seed, stream, *position)).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def steps_per_epoch(num_samples: int, global_batch_size: int) -> int:
    """Return the optimizer steps of one epoch: whole global batches, the rest waits for the next.

    Each epoch leaves out other samples, because each has an order of its own.
    """
    return num_samples // global_batch_size


class MicroBatch(NamedTuple):
    """The samples that go through the model together, and the seed of their augmentation."""

    samples: Sequence[int]
    seed: int


def own_passes(
    num_micro_batches: int, *, rank: int, world_size: int, devices_per_process: int = 1
) -> range:
    """Return the first micro-batch of each forward pass that a rank computes in every step.

    Rank r of W computes micro-batches r x A to (r + 1) x A - 1, A being the accumulation. A pass
    takes `devices_per_process` neighbours: one, except for DataParallel.
    """
    share = num_micro_batches // world_size
    return range(rank * share, (rank + 1) * share, devices_per_process)


class TrainSampler(Sampler[list[MicroBatch]]):
    """Yield the micro-batches of one rank's forward passes, over all `steps` (counted from 1)."""

    def __init__(
        self,
        num_samples: int,
        *,
        global_batch_size: int,
        micro_batch_size: int,
        seed: int,
        steps: range,
        passes: range,
    ) -> None:
        self.num_samples = num_samples
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.seed = seed
        self.steps = steps
        self.passes = passes

    def __len__(self) -> int:
        return len(self.steps) * len(self.passes)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        order_epoch, order = -1, torch.empty(0)
        for step in self.steps:
            epoch, batch = divmod(
                step - 1, steps_per_epoch(self.num_samples, self.global_batch_size)
            )
            if epoch != order_epoch:
                order_epoch, order = epoch, sample_order(self.num_samples, self.seed, epoch)
            start = batch * self.global_batch_size
            global_batch = order[start : start + self.global_batch_size]
            for first in self.passes:
                neighbours = range(first, first + self.passes.step)
                yield [self._micro_batch(global_batch, step, index) for index in neighbours]

    def _micro_batch(self, global_batch: Tensor, step: int, index: int) -> MicroBatch:
        start = index * self.micro_batch_size
        samples = global_batch[start : start + self.micro_batch_size].tolist()
        return MicroBatch(samples, derive_seed(self.seed, DATA_STREAM, step, index))


def sample_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in one epoch, a permutation of (num_samples,) int64."""
    generator = torch.Generator().manual_seed(derive_seed(seed, ORDER_STREAM, epoch))
    return torch.randperm(num_samples, generator=generator)


class EvaluationSampler(Sampler[list[MicroBatch]]):
    """Deal whole batches, in the order of the samples, to the ranks in turn.

    Every rank gets the same number of batches, because a forward pass may hold a collective
    (FSDP2): a rank that has none left repeats the last one, which does not count (see `owned`).
    """

    def __init__(
        self, num_samples: int, *, batch_size: int, rank: int = 0, world_size: int = 1
    ) -> None:
        self.num_samples = num_samples
        starts = range(0, num_samples, batch_size)
        self.batches = [range(start, min(start + batch_size, num_samples)) for start in starts]
        self.turns = range(rank, -(-len(self.batches) // world_size) * world_size, world_size)

    def owned(self) -> list[range | None]:
        """Return the samples of each batch that this rank yields; None for a repeated one."""
        last = len(self.batches)
        return [self.batches[turn] if turn < last else None for turn in self.turns]

    def __len__(self) -> int:
        return len(self.turns)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        for samples in self.owned():
            yield [MicroBatch(list(samples or self.batches[-1]), seed=0)]


def seed_forward(seed: int, step: int, micro_batch: int, devices_per_process: int = 1) -> None:
    """Seed the random numbers (dropout) of a forward pass.

    With DataParallel the pass holds one micro-batch a device, and each device has a generator.
    """
    torch.manual_seed(derive_seed(seed, FORWARD_STREAM, step, micro_batch))
    for device in range(1, devices_per_process):
        device_seed = derive_seed(seed, FORWARD_STREAM, step, micro_batch + device)
        torch.cuda.default_generators[device].manual_seed(device_seed)
