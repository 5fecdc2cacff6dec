"""Collectives: every rank calls each of these; on one process each returns what it was given."""

from typing import TypeVar

import torch.distributed as dist
from torch import Tensor

Shared = TypeVar("Shared")


def is_distributed() -> bool:
    """Return whether there is a process group."""
    return dist.is_available() and dist.is_initialized()


def sum_over_ranks(tensor: Tensor) -> Tensor:
    """Return `tensor` summed over all ranks, on every rank; in place.

    The sum is exact where each element is non-zero on one rank at most.
    """
    if is_distributed():
        dist.all_reduce(tensor)
    return tensor


def min_over_ranks(tensor: Tensor) -> Tensor:
    """Return the element-wise minimum over all ranks, on every rank; in place."""
    if is_distributed():
        dist.all_reduce(tensor, dist.ReduceOp.MIN)
    return tensor


def gather_from_ranks(value: Shared) -> list[Shared]:
    """Return the values of all ranks, in their order, on every rank."""
    if not is_distributed():
        return [value]
    values = [value] * dist.get_world_size()
    dist.all_gather_object(values, value)
    return values


def broadcast_from_rank_0(value: Shared) -> Shared:
    """Return rank 0's value on every rank."""
    if not is_distributed():
        return value
    values = [value]
    dist.broadcast_object_list(values)
    return values[0]
