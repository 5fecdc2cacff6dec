"""The gradient of a step as an ordered sum over its micro-batches: the same bits on any placement.

Each rank sums its micro-batches in a branch of the tree; then the ranks exchange parts of their
sums (all-to-all), add them in the order of the tree, and collect the totals (all-gather): as many
bytes as a ring all-reduce moves. Not the same bits: other hardware, other versions of PyTorch,
DataParallel, and world sizes whose ratio is no power of two.
"""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.nn.parallel import DistributedDataParallel

from ..batches.plan import Plan
from ..distributed.shards import sharded_modules
from ..distributed.versions import set_reduce_scatter, start_all_gather
from .fsdp2 import OrderedReduceScatter
from .tree import TreeSum, sum_rows


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
        self.positions = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self.has_gradient = [False] * len(self.parameters)
        """Which parameters had a gradient in one of the step's passes; the others keep None."""

        self.tree = TreeSum(num_passes)
        self.num_passes = num_passes
        self.num_collected = 0
        if isinstance(parallel_model, DistributedDataParallel):
            parallel_model.register_comm_hook(_Exchange(self), reduce_bucket)
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
            self.tree.add([_gradient(parameter) for parameter in self.parameters])
            for parameter in self.parameters:
                parameter.grad = None
            return
        if not self.is_ddp:
            gradients = [_gradient(parameter) for parameter in self.parameters]
            self.tree.finish(gradients)
            for index, parameter in enumerate(self.parameters):
                parameter.grad = gradients[index] if self.has_gradient[index] else None
        self.tree.clear()
        self.has_gradient = [False] * len(self.parameters)
        self.num_collected = 0


def _gradient(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


class _Exchange:
    """The buckets of one backward pass that are being exchanged between the ranks.

    The all-to-all of a bucket runs while autograd computes the next bucket, its all-gather after
    that. A collective inside a `then` callback would be simpler, but hangs with gloo.
    """

    def __init__(self, gradients: GradientSum) -> None:
        self.gradients = gradients
        self.scattering: list[_Bucket] = []
        self.gathering: list[_Bucket] = []

    def start(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        part = _Bucket(bucket.buffer())
        for before in self.scattering:
            before.gather()
        self.gathering += self.scattering
        self.scattering = [part]
        if bucket.is_last():
            part.gather()
            for before in [*self.gathering, part]:
                before.finish()
            self.scattering, self.gathering = [], []
        return part.future


class _Bucket:
    """One bucket: all-to-all, ordered sum, all-gather."""

    def __init__(self, buffer: Tensor) -> None:
        self.buffer = buffer
        self.world_size = dist.get_world_size()
        part_size = -(-buffer.numel() // self.world_size)
        padding = part_size * self.world_size - buffer.numel()
        self.sent = nn.functional.pad(buffer, (0, padding)) if padding else buffer
        self.received = torch.empty_like(self.sent)
        self.future: torch.futures.Future[Tensor] = torch.futures.Future(
            devices=[buffer.device] if buffer.device.type != "cpu" else None
        )
        self.work: Any = dist.all_to_all_single(self.received, self.sent, async_op=True)

    def gather(self) -> None:
        self.work.wait()
        rows = self.received.view(self.world_size, -1)
        self.total = sum_rows(rows).div_(self.world_size)
        # Reuse the memory of the parts that were sent.
        self.work = start_all_gather(self.sent, self.total)

    def finish(self) -> None:
        self.work.wait()
        self.future.set_result(self.sent[: self.buffer.numel()])


def reduce_bucket(exchange: _Exchange, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: finish this rank's branch for a bucket, then sum over the ranks.

    PyTorch requires the name of the parameter `bucket`.
    """
    gradients = exchange.gradients
    indices = [gradients.positions[id(parameter)] for parameter in bucket.parameters()]
    gradients.tree.finish(bucket.gradients(), indices)
    return exchange.start(bucket)
