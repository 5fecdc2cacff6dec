"""Evaluation: a score of each sample, collected from all ranks, then summarized once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..distributed.collectives import sum_over_ranks
from .loaders import EvaluationLoader

Scores = dict[str, Tensor]


class Evaluation(NamedTuple):
    """Results of a split, and `scores` of its samples, each (num_samples,), on the CPU."""

    num_samples: int
    results: dict[str, float]
    scores: Scores


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: EvaluationLoader,
    score: Callable[[nn.Module, Any], Mapping[str, Tensor]],
    summarize: Callable[[Scores], dict[str, float]],
) -> Evaluation:
    """Return the results of `model` on a split, the same on every rank; all ranks call it.

    Batches, and with them rounding, do not depend on the number of processes.

    Args:
        model: The wrapped model.
        loader: This rank's batches.
        score: Returns scores of each sample of a batch; each (batch,).
        summarize: Returns the results from the scores of the split; each (samples,), on the CPU.
    """
    was_training = model.training
    model.eval()
    columns: Scores = {}
    for samples, batch in loader:
        for name, values in score(model, batch).items():
            column = columns.setdefault(name, values.new_zeros(loader.num_samples))
            if samples is not None:
                column[samples.start : samples.stop] = values
    model.train(was_training)
    scores = {name: sum_over_ranks(column).cpu() for name, column in columns.items()}
    return Evaluation(loader.num_samples, summarize(scores), scores)
