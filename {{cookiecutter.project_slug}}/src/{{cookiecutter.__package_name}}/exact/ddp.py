"""The ordered sum for DDP, whose gradients are exchanged in buckets while autograd goes on."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]

from ..distributed.versions import start_all_gather
from .tree import TreeSum, sum_rows


class BucketExchange:
    """The buckets of one backward pass that are being exchanged between the ranks.

    The all-to-all of a bucket runs while autograd computes the next bucket, its all-gather after
    that. A collective inside a `then` callback would be simpler, but hangs with gloo.

    Args:
        tree: Has the sums of this rank's earlier passes.
        parameters: Those of the model that have gradients.
    """

    def __init__(self, tree: TreeSum, parameters: list[nn.Parameter]) -> None:
        self.tree = tree
        self.positions = {id(parameter): i for i, parameter in enumerate(parameters)}
        self.layouts = [_layout(real_view(parameter)) for parameter in parameters]
        self.scattering: list[_Bucket] = []
        self.gathering: list[_Bucket] = []

    def finish_branch(self, bucket: GradBucket) -> None:
        """Turn the gradients in a bucket into their sums over this rank's passes.

        `GradBucket.gradients()` has numbers at wrong positions for a parameter that is complex, or
        not contiguous, such as channels_last.
        """
        indices = [self.positions[id(parameter)] for parameter in bucket.parameters()]
        layouts = [self.layouts[index] for index in indices]
        parts = torch.split(bucket.buffer(), [shape.numel() for shape, _ in layouts])
        gradients = [
            part.as_strided(shape, strides, part.storage_offset())
            for part, (shape, strides) in zip(parts, layouts, strict=True)
        ]
        self.tree.finish(gradients, indices)

    def start(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        """Send the parts of a bucket, and return what will have its sum over the ranks."""
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


def reduce_bucket(exchange: BucketExchange, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: finish this rank's branch for a bucket, then sum over the ranks.

    PyTorch requires the name of the parameter `bucket`.
    """
    exchange.finish_branch(bucket)
    return exchange.start(bucket)


def real_view(gradient: Tensor) -> Tensor:
    """Return complex numbers as pairs of real ones, which DDP has in its buckets."""
    return torch.view_as_real(gradient) if gradient.is_complex() else gradient


def _layout(parameter: Tensor) -> tuple[torch.Size, tuple[int, ...]]:
    """Return shape and strides of a parameter's gradient in a bucket.

    They are the parameter's, or contiguous if that has gaps in memory.
    """
    is_dense = torch.empty_like(parameter, device="meta").stride() == parameter.stride()
    strides = parameter if is_dense else torch.empty(parameter.shape, device="meta")
    return parameter.shape, strides.stride()
