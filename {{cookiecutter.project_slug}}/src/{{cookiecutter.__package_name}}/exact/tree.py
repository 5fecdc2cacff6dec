"""Sums in a fixed binary tree, which is the same for any power-of-two number of ranks.

Floating-point sums depend on their order, and usually the order comes from the placement: autograd
adds the micro-batches of a rank one after the other, and all-reduce adds ranks in its own order.
Here the gradients of a step's micro-batches are the leaves of one tree: each rank sums a branch.

Source: the fixed reduction tree is that of reproducible summation, as in Demmel and Nguyen, Fast
Reproducible Floating-Point Summation, 2013, section 1; fixed logical workers for elastic training
are described in Li et al., EasyScale, 2023.
"""

from collections.abc import Sequence

import torch
from torch import Tensor


def odd_factor(number: int) -> int:
    """Return the largest odd divisor of a positive number."""
    return number // (number & -number)


class TreeSum:
    """Sums a known number of equally shaped lists of tensors, given one by one, in a fixed tree.

    The tree halves an even number of leaves, and adds an odd number in order. So the sums of 2, 4,
    ... equal shares, added in the same way, give the sum of the whole. It needs memory for one set
    of gradients per level.
    """

    def __init__(self, num_leaves: int) -> None:
        self.odd_factor = odd_factor(num_leaves)
        self.nodes: list[tuple[int, list[Tensor]]] = []
        """Number of leaves and sum of each branch whose sibling is not complete yet."""

    def add(self, leaf: list[Tensor]) -> None:
        """Add the next leaf, whose memory is reused; the last one goes to `finish` instead."""
        self.nodes.append((1, leaf))
        while len(self.nodes) > 1 and self._are_siblings():
            num_leaves, node = self.nodes.pop()
            num_before, before = self.nodes.pop()
            torch._foreach_add_(before, node)
            self.nodes.append((num_before + num_leaves, before))

    def _are_siblings(self) -> bool:
        (before, _), (last, _) = self.nodes[-2:]
        return before < self.odd_factor or before == last >= self.odd_factor

    def finish(self, leaf: list[Tensor], indices: Sequence[int] | None = None) -> None:
        """Turn the last leaf into the total, in place; `indices` selects some of the tensors."""
        for _, node in reversed(self.nodes):
            selected = node if indices is None else [node[index] for index in indices]
            torch._foreach_add_(leaf, selected)

    def clear(self) -> None:
        """Remove the leaves, before the next sum."""
        self.nodes.clear()


def sum_rows(rows: Tensor) -> Tensor:
    """Return the sum of (world_size, n) over the ranks, (n,), in the order of the tree; in place.

    Neighbours are added in pairs while their number is even, then one after the other.
    """
    parts = list(rows.unbind(0))
    while len(parts) % 2 == 0:
        parts = [left.add_(right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]
