"""Means that do not depend on the order of the values, nor on the number of threads."""

import math

from torch import Tensor


def exact_mean(values: Tensor) -> float:
    """Return the mean of a one-dimensional tensor; its sum is rounded once."""
    return math.fsum(values.tolist()) / len(values)
