"""The gradient of a step as an ordered sum over its micro-batches: the same bits on any placement.

Each rank sums its micro-batches in a branch of the tree; then the ranks exchange parts of their
sums (all-to-all), add them in the order of the tree, and collect the totals (all-gather): as many
bytes as a ring all-reduce moves. Not the same bits: other hardware, other versions of PyTorch,
DataParallel, and world sizes whose ratio is no power of two.
"""

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..batches.plan import Plan
from ..distributed.shards import sharded_modules
from .ddp import BucketExchange, real_view, reduce_bucket
from .fsdp2 import OrderedReduceScatter
from .tree import TreeSum


class GradientSum:
    """Makes the gradient of a step the ordered sum over all micro-batches; no-op if not exact.

    Make it after wrapping the model; call `collect` after each backward pass.
    """

    def __init__(self, parallel_model: nn.Module, plan: Plan) -> None:
        self.enabled = plan.devices.exact
        if not self.enabled:
            return
        num_passes = plan.gradient_accumulation_steps
        self.is_ddp = isinstance(parallel_model, DistributedDataParallel)
        self.shards = sharded_modules(parallel_model)
        self.parameters = [p for p in parallel_model.parameters() if p.requires_grad]
        self.has_complex = any(parameter.is_complex() for parameter in self.parameters)
        self.tree = TreeSum(num_passes)
        self.num_passes = num_passes
        self.num_collected = 0
        if isinstance(parallel_model, DistributedDataParallel):
            exchange = BucketExchange(self.tree, self.parameters)
            parallel_model.register_comm_hook(exchange, reduce_bucket)
        for module in self.shards:
            # Since torch 2.9; before, no run with FSDP2 is exact.
            module.set_custom_reduce_scatter(OrderedReduceScatter(num_passes))

    def collect(self) -> None:
        """Take the gradients of a backward pass; after the last pass of a step, set their sum.

        It is zero where no pass has one.
        """
        if not self.enabled or self.shards or self.num_passes == 1:
            return
        self.num_collected += 1
        if self.num_collected < self.num_passes:
            self.tree.add(self._as_real(self._gradients()))
            for parameter in self.parameters:
                parameter.grad = None
            return
        if not self.is_ddp:
            gradients = self._gradients()
            self.tree.finish(self._as_real(gradients))
            for parameter, gradient in zip(self.parameters, gradients, strict=True):
                parameter.grad = gradient
        self.tree.clear()
        self.num_collected = 0

    def _gradients(self) -> list[Tensor]:
        """Return the gradient of each parameter in this pass."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return [g.resolve_conj() for g in gradients] if self.has_complex else gradients

    def _as_real(self, gradients: list[Tensor]) -> list[Tensor]:
        return list(map(real_view, gradients)) if self.has_complex else gradients
