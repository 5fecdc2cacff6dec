"""Means that do not depend on the order of the values, nor on the number of threads."""

import math

from torch import Tensor


def exact_mean(values: Tensor, weights: Tensor | None = None) -> float:
    """Return the mean of one-dimensional values; their sum is rounded once.

    Args:
        values: (n,), or sums over groups of items.
        weights: (n,), the items of each group; None is one each.
    """
    total = len(values) if weights is None else math.fsum(weights.tolist())
    return math.fsum(values.tolist()) / total if total else math.nan
