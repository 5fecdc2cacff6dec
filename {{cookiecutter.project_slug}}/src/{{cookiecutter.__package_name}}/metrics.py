"""Results that do not depend on the placement: kept apart for each sample, then summed once."""

import math
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.data import DataLoader

from .model import METRICS, per_sample_results
from .sampling import EvaluationSampler


class Evaluation(NamedTuple):
    """Means over the samples of a split, each counted once, and what was found for each sample."""

    samples: int
    means: dict[str, float]
    per_sample: dict[str, Tensor]


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return `tensor` summed over all ranks, on every rank; in place. One process: as it is.

    Where each element is non-zero on one rank at most, the sum is exact.
    """
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(tensor)
    return tensor


def exact_mean(values: Tensor) -> float:
    """Return the mean of a one-dimensional tensor, the sum rounded once: no order, no threads."""
    return math.fsum(values.tolist()) / len(values)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader[Any], device: torch.device) -> Evaluation:
    """Run `model` over a split that an `EvaluationSampler` shares out; the same on every rank.

    The batches, and with them the rounding, do not depend on the number of processes.
    """
    sampler = loader.sampler
    assert isinstance(sampler, EvaluationSampler)
    was_training = model.training
    model.eval()
    columns: dict[str, Tensor] = {}
    for samples, batch in zip(sampler.owned(), loader, strict=True):
        inputs, targets = (tensor.to(device, non_blocking=True) for tensor in batch)
        for name, values in per_sample_results(model(inputs), targets).items():
            column = columns.setdefault(name, values.new_zeros(sampler.num_samples))
            if samples is not None:
                column[samples.start : samples.stop] = values
    model.train(was_training)
    per_sample = {name: sum_over_ranks(column).cpu() for name, column in columns.items()}
    means = {name: exact_mean(per_sample[name]) for name in METRICS}
    return Evaluation(sampler.num_samples, means, per_sample)
