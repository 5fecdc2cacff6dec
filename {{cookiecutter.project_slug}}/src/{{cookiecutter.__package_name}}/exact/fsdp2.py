"""The ordered sum for FSDP2, whose gradients are reduce-scattered, and the norm of its shards."""

from collections.abc import Iterable
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from .tree import TreeSum, sum_rows


class OrderedReduceScatter:
    """Reduce-scatter for FSDP2: sums a rank's passes in its branch, then the ranks in order.

    FSDP2 calls it in each pass that synchronizes gradients, which must be every pass. Before the
    last it stores the input and returns zeros, which FSDP2 accumulates.
    """

    def __init__(self, num_passes: int) -> None:
        self.tree = TreeSum(num_passes)
        self.num_passes = num_passes
        self.num_calls = 0

    def allocate(self, size: Iterable[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return a buffer for gradients that are sent or received."""
        return torch.empty(tuple(size), dtype=dtype, device=device)

    def __call__(
        self,
        output_tensor: Tensor,
        input_tensor: Tensor,
        group: dist.ProcessGroup,
        op: Any,
        async_op: bool = False,
    ) -> None:
        """Write this rank's part of the mean to `output_tensor`.

        Args:
            output_tensor: (n,), written.
            input_tensor: (world_size * n,), this rank's gradients; chunk r goes to rank r.
            group: Process group of the shards.
            op: AVG, or SUM where FSDP2 does the division.
            async_op: Ignored: FSDP2 calls it on a stream of its own.
        """
        self.num_calls += 1
        if self.num_calls < self.num_passes:
            self.tree.add([input_tensor])
            output_tensor.zero_()
            return
        self.tree.finish([input_tensor])
        self.tree.clear()
        self.num_calls = 0
        received = torch.empty_like(input_tensor)
        dist.all_to_all_single(received, input_tensor, group=group)
        total = sum_rows(received.view(group.size(), -1))
        output_tensor.copy_(total.div_(group.size()) if op == dist.ReduceOp.AVG else total)


def clip_shards_(model: nn.Module, max_norm: float, *, exact: bool) -> Tensor:
    """Clip the sharded gradients of FSDP2 as `clip_grad_norm_` does, and return their norm, ().

    PyTorch adds up the norms of shards, which depend on their number. The exact norm is that of
    whole gradients, which are gathered one at a time.
    """
    if not exact:
        shard_norm: Any = clip_grad_norm_(model.parameters(), max_norm)
        whole_norm: Tensor = shard_norm.full_tensor()
        return whole_norm
    gradients: list[Any] = [p.grad for p in model.parameters() if p.grad is not None]
    norms = [get_total_norm([gradient.full_tensor()]) for gradient in gradients]
    norm: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm
