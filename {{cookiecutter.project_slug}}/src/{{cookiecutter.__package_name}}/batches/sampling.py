"""Which samples make which micro-batch: the rule that makes placement irrelevant.

The unit of work is the micro-batch: number m of optimizer step s. Its samples, their augmentation
and the dropout of its forward pass depend on (seed, s, m) alone; placement only decides which
rank computes it. So any number of processes takes the same steps, and a resumed run computes its
position instead of iterating over the batches before it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.data import Sampler

from ..settings.run_config import RunConfig
from .plan import Plan
from .seeds import DATA_STREAM, EVALUATION_STREAM, ORDER_STREAM, derive_seed


class MicroBatch(NamedTuple):
    """The samples of one forward pass on one device, and the seed of their augmentation."""

    samples: Sequence[int]
    seed: int


def sample_order(num_samples: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the samples in one epoch, a permutation of (num_samples,).

    Its type does not change the order; int32 takes half the memory.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, ORDER_STREAM, epoch))
    dtype = torch.int32 if num_samples < 2**31 else torch.int64
    return torch.randperm(num_samples, generator=generator, dtype=dtype)


def train_micro_batches(plan: Plan) -> Iterator[list[MicroBatch]]:
    """Yield the micro-batches of each forward pass that this rank has left."""
    config, order_epoch, order = plan.config, -1, torch.empty(0)
    for step in plan.steps:
        epoch, batch = divmod(step - 1, plan.steps_per_epoch)
        if epoch != order_epoch:
            order_epoch, order = epoch, sample_order(plan.num_train_samples, config.seed, epoch)
        start = batch * config.global_batch_size
        samples = order[start : start + config.global_batch_size].tolist()
        for k in plan.passes:
            yield [_micro_batch(config, samples, step, number) for number in plan.micro_batches(k)]


def _micro_batch(config: RunConfig, samples: list[int], step: int, number: int) -> MicroBatch:
    start = number * config.micro_batch_size
    seed = derive_seed(config.seed, DATA_STREAM, step, number)
    return MicroBatch(samples[start : start + config.micro_batch_size], seed)


class EvaluationSampler(Sampler[list[MicroBatch]]):
    """Assigns the batches of a split to the ranks in round-robin order; each sample counts once.

    Every rank gets the same number of batches, because a forward pass may contain a collective
    (FSDP2): a rank that has none left repeats the last one, which is not counted (see `counted`).
    Where it is padded, the last batch repeats its last sample, which is not counted either.
    """

    def __init__(
        self,
        num_samples: int,
        *,
        batch_size: int,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        is_padded: bool = False,
    ) -> None:
        self.num_samples = num_samples
        self.batch_size, self.is_padded = batch_size, is_padded
        self.seed = seed
        self.num_batches = -(-num_samples // batch_size)
        rounds = -(-self.num_batches // world_size)
        self.batch_indices = range(rank, rounds * world_size, world_size)

    def counted(self) -> Iterator[range | None]:
        """Yield the samples of each batch of this rank; None for one that is repeated.

        No list: that of a million samples in batches of 16 would take 8 MB.
        """
        for index in self.batch_indices:
            yield self._samples_of(index) if index < self.num_batches else None

    def __len__(self) -> int:
        return len(self.batch_indices)

    def __iter__(self) -> Iterator[list[MicroBatch]]:
        for index, samples in zip(self.batch_indices, self.counted(), strict=True):
            seed = derive_seed(self.seed, EVALUATION_STREAM, index, 0)
            read = list(samples or self._samples_of(self.num_batches - 1))
            if self.is_padded:
                read += read[-1:] * (self.batch_size - len(read))
            yield [MicroBatch(read, seed)]

    def _samples_of(self, index: int) -> range:
        start = index * self.batch_size
        return range(start, min(start + self.batch_size, self.num_samples))
