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
from ..distributed.versions import set_reduce_scatter
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
        self.has_gradient = [False] * len(self.parameters)
        """Which parameters had a gradient in one of the step's passes; the others keep None."""

        self.tree = TreeSum(num_passes)
        self.num_passes = num_passes
        self.num_collected = 0
        if isinstance(parallel_model, DistributedDataParallel):
            exchange = BucketExchange(self.tree, self.parameters)
            parallel_model.register_comm_hook(exchange, reduce_bucket)
        for module in self.shards:
            set_reduce_scatter(module, OrderedReduceScatter(num_passes))

    def collect(self) -> None:
        """Take the gradients of a backward pass; after the last pass of a step, set their sum."""
        if not self.enabled or self.shards or (self.num_passes == 1 and not self.is_ddp):
            return
        self.num_collected += 1
        for index, parameter in enumerate(self.parameters):
            self.has_gradient[index] |= parameter.grad is not None
        if self.num_collected < self.num_passes:
            self.tree.add(self._as_real(self._gradients()))
            for parameter in self.parameters:
                parameter.grad = None
            return
        if not self.is_ddp:
            gradients = self._gradients()
            self.tree.finish(self._as_real(gradients))
            for index, parameter in enumerate(self.parameters):
                parameter.grad = gradients[index] if self.has_gradient[index] else None
        self.tree.clear()
        self.has_gradient = [False] * len(self.parameters)
        self.num_collected = 0

    def _gradients(self) -> list[Tensor]:
        """Return the gradient of each parameter in this pass."""
        gradients = [torch.zeros_like(p) if p.grad is None else p.grad for p in self.parameters]
        return [g.resolve_conj() for g in gradients] if self.has_complex else gradients

    def _as_real(self, gradients: list[Tensor]) -> list[Tensor]:
        return list(map(real_view, gradients)) if self.has_complex else gradients
