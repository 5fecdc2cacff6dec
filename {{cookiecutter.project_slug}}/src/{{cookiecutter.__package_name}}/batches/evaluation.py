"""Evaluation: scores of each sample, collected from all ranks, then summarized once."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ..distributed.collectives import (
    broadcast_from_rank_0,
    gather_from_ranks,
    sum_over_ranks,
)
from ..settings.errors import SettingError
from .loaders import EvaluationLoader

Scores = dict[str, Tensor]
Score = Callable[[nn.Module, Any], Mapping[str, Tensor]]
Summarize = Callable[[Scores], dict[str, float]]


class Evaluation(NamedTuple):
    """Results of a split, and `scores` of its samples, each (num_samples, ...), on the CPU."""

    num_samples: int
    results: dict[str, float]
    scores: Scores


@torch.no_grad()
def evaluate(
    model: nn.Module, loader: EvaluationLoader, score: Score, summarize: Summarize
) -> Evaluation:
    """Return the results of `model` on a split, the same on every rank; all ranks call it.

    Batches, and with them rounding, do not depend on the number of processes.

    Args:
        model: The wrapped model.
        loader: This rank's batches.
        score: Returns rows for each sample of a batch; each (batch, ...), of any dtype.
        summarize: Returns the results from the rows of the split, in the order of its samples;
            each (num_samples, ...), on the CPU.

    Raises:
        SettingError: `score` does not return one row per sample, or rows of another shape or type
            than for another batch; or `summarize` does not return numbers.
    """
    was_training = model.training
    model.eval()
    columns: Scores = {}
    for samples, batch in loader:
        # A repeated batch, so that all ranks call the model equally often, has none that counts.
        counted = range(0) if samples is None else samples
        for name, values in score(model, batch).items():
            if samples is not None:
                check_rows(name, values, loader.num_read(samples))
            if name not in columns:
                columns[name] = values.new_zeros((loader.num_samples, *values.shape[1:]))
            column = columns[name]
            check_same_rows(name, column, values)
            column[counted.start : counted.stop] = values[: len(counted)]
    model.train(was_training)
    _check_same_columns(columns)
    scores = {name: _collected(column).cpu() for name, column in columns.items()}
    # Ranks decide by them what to do next: their own could differ, as of another processor.
    results = broadcast_from_rank_0(as_numbers(summarize(scores)))
    return Evaluation(loader.num_samples, results, scores)


def check_rows(name: str, values: Any, num_samples: int) -> None:
    """Check what `score` returned under a name.

    Raises:
        SettingError: it is not one row per sample.
    """
    if not isinstance(values, Tensor) or values.ndim == 0 or len(values) != num_samples:
        found = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        raise SettingError(
            f"model.py: score returned {found} as {name!r} for a batch of {num_samples} samples; "
            f"return a tensor with one row per sample, ({num_samples}, ...)"
        )


def check_same_rows(name: str, rows: Tensor, others: Tensor) -> None:
    """Check that the rows which `score` returned for two batches can be put together.

    Raises:
        SettingError: they cannot.
    """
    if rows.shape[1:] != others.shape[1:] or rows.dtype != others.dtype:
        found = " and ".join(f"({', '.join(['n', *_kind(some)])})" for some in (rows, others))
        raise SettingError(
            f"model.py: score returned {found} as {name!r} for two batches; return rows of one "
            "shape and type: padded to a length that is fixed, or summed over what varies"
        )


def _kind(rows: Tensor) -> list[str]:
    """Return the sizes of a row, and its type."""
    return [*map(str, rows.shape[1:]), str(rows.dtype).removeprefix("torch.")]


def as_numbers(results: Any) -> dict[str, float]:
    """Return what `summarize` returned, with scalars of torch and numpy as numbers.

    Raises:
        SettingError: it is no dictionary of numbers.
    """
    if not isinstance(results, Mapping):
        raise SettingError(
            f"model.py: summarize returned a {type(results).__name__}; return a dictionary of "
            "numbers"
        )
    numbers = {}
    for name, value in results.items():
        is_scalar = isinstance(value, Tensor | np.generic | np.ndarray) and value.ndim == 0
        numbers[str(name)] = number = value.item() if is_scalar else value
        if not isinstance(number, int | float):
            raise SettingError(
                f"model.py: summarize returned {name!r} as a {type(value).__name__}; return a "
                "number"
            )
    return numbers


def _check_same_columns(columns: Scores) -> None:
    """Check that all ranks have columns that can be added up; all ranks call it.

    Raises:
        SettingError: they do not.
    """
    kinds = gather_from_ranks([(name, *_kind(column)) for name, column in columns.items()])
    if others := [kind for kind in kinds if kind != kinds[0]]:
        raise SettingError(
            f"model.py: score returned {kinds[0]} on rank 0 and {others[0]} on another; return the "
            "same names in the same order, and rows of one shape and type, for every batch"
        )


def _collected(column: Tensor) -> Tensor:
    """Return rows that are set on one rank each and zero on the others, from all ranks."""
    # As bytes, so that every dtype arrives as it is.
    sum_over_ranks(column.view(torch.uint8))
    return column
