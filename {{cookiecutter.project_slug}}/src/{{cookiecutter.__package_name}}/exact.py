"""The same result to the last bit on 1, 2, 4, ... processes: gradients summed in one fixed order.

Floating-point sums depend on their order, and an ordinary run takes the order from the placement:
autograd adds a rank's micro-batches one after the other, all-reduce adds ranks as it likes. Here
the gradients of a step's micro-batches are the leaves of one binary tree. A rank sums its own
branch, then the ranks exchange parts of their sums (all-to-all), each adds its part in the order
of the tree, and all collect the parts (all-gather): as many bytes as a ring all-reduce moves.

The tree is the same for numbers of processes whose ratio is a power of two. It costs memory for
one more set of gradients per doubling of the accumulation, and on a CPU the use of one thread a
process, since the sums inside a kernel depend on the number of threads. What it cannot bridge:
other hardware, other versions of PyTorch, DataParallel.

Source: the idea of a fixed reduction tree is that of reproducible summation, as in Demmel and
Nguyen, Fast Reproducible Floating-Point Summation, 2013, section 1; elastic training with fixed
logical workers is described in Li et al., EasyScale, 2023.
"""

import os
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed import GradBucket  # type: ignore[attr-defined]
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from torch.nn.utils import clip_grad_norm_, clip_grads_with_norm_, get_total_norm

from .devices import Devices
from .plan import Plan, odd_factor


def fix_kernels(devices: Devices) -> None:
    """Where the run is exact, choose deterministic kernels and one thread a process."""
    if not devices.exact:
        return
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    torch.backends.cudnn.benchmark = False
    torch.set_num_threads(1)
    # Accelerate would choose another number of threads where this is not set.
    os.environ.setdefault("OMP_NUM_THREADS", "1")


class TreeSum:
    """Sums a known number of equally shaped lists of tensors, given one by one, in a fixed tree.

    While the number is even the tree halves it; an odd number of leaves is summed in order. So
    the sums of 2, 4, ... equal shares, added in the same way, give the sum of the whole.
    """

    def __init__(self, num_leaves: int) -> None:
        self.odd_factor = odd_factor(num_leaves)
        self.nodes: list[tuple[int, list[Tensor]]] = []
        """Number of leaves and sum of each branch that waits for its neighbour."""

    def add(self, leaf: list[Tensor]) -> None:
        """Take the next leaf, but for the last, which goes to `finish`; its memory is reused."""
        self.nodes.append((1, leaf))
        while len(self.nodes) > 1 and self._belong_together():
            num_leaves, node = self.nodes.pop()
            num_before, before = self.nodes.pop()
            torch._foreach_add_(before, node)
            self.nodes.append((num_before + num_leaves, before))

    def _belong_together(self) -> bool:
        (before, _), (last, _) = self.nodes[-2:]
        return before < self.odd_factor or before == last >= self.odd_factor

    def finish(self, leaf: list[Tensor], indices: Sequence[int] | None = None) -> None:
        """Turn the last leaf into the sum of all, in place; `indices` chooses among the tensors."""
        for _, node in reversed(self.nodes):
            chosen = node if indices is None else [node[index] for index in indices]
            torch._foreach_add_(leaf, chosen)

    def clear(self) -> None:
        """Forget the leaves, for the next sum."""
        self.nodes.clear()


def sum_rows(rows: Tensor) -> Tensor:
    """Return the sum of (world_size, n) over the ranks, (n,), in the order of the tree; in place.

    Neighbours are added in pairs as long as their number is even, then one after the other.
    """
    parts = list(rows.unbind(0))
    while len(parts) % 2 == 0:
        parts = [left.add_(right) for left, right in zip(parts[::2], parts[1::2], strict=True)]
    for part in parts[1:]:
        parts[0].add_(part)
    return parts[0]


class GradientSum:
    """Makes the gradient of a step the ordered sum over all micro-batches; off, changes nothing.

    Wrap the model first; then call `collect` after each backward pass.
    """

    def __init__(self, parallel_model: nn.Module, plan: Plan) -> None:
        self.enabled = plan.devices.exact
        if not self.enabled:
            return
        num_passes = len(plan.own_passes)
        self.is_ddp = isinstance(parallel_model, DistributedDataParallel)
        self.shards = [
            module for module in parallel_model.modules() if isinstance(module, FSDPModule)
        ]
        self.parameters = [p for p in parallel_model.parameters() if p.requires_grad]
        self.positions = {id(parameter): i for i, parameter in enumerate(self.parameters)}
        self.has_gradient = [False] * len(self.parameters)
        """Which parameters took part in one of the step's passes; the others keep None."""

        self.tree = TreeSum(num_passes)
        self.num_passes = num_passes
        self.num_collected = 0
        if isinstance(parallel_model, DistributedDataParallel):
            parallel_model.register_comm_hook(_Exchange(self), reduce_bucket)
        for module in self.shards:
            # The base class that mypy asks for is private.
            module.set_custom_reduce_scatter(OrderedReduceScatter(num_passes))  # type: ignore[arg-type]

    def collect(self) -> None:
        """Take the gradients of the backward pass just done; after the last, leave their sum."""
        if not self.enabled or self.shards:
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
    """The buckets of one backward pass on their way between the ranks.

    A bucket's all-to-all runs while autograd computes the next bucket, and its all-gather from
    then on: a collective inside a `then` callback, which would be simpler, hangs with gloo.
    """

    def __init__(self, gradients: GradientSum) -> None:
        self.gradients = gradients
        self.scattering: list[_Part] = []
        self.gathering: list[_Part] = []

    def start(self, bucket: GradBucket) -> torch.futures.Future[Tensor]:
        part = _Part(bucket.buffer())
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


class _Part:
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
        # The parts that were sent away are no longer needed: their memory takes the sums.
        self.work = dist.all_gather_single(self.sent, self.total, async_op=True)

    def finish(self) -> None:
        self.work.wait()
        self.future.set_result(self.sent[: self.buffer.numel()])


def reduce_bucket(exchange: _Exchange, bucket: GradBucket) -> torch.futures.Future[Tensor]:
    """DDP communication hook: finish this rank's branch for a bucket, then sum over the ranks.

    PyTorch asks for these parameter names.
    """
    gradients = exchange.gradients
    indices = [gradients.positions[id(parameter)] for parameter in bucket.parameters()]
    gradients.tree.finish(bucket.gradients(), indices)
    return exchange.start(bucket)


class OrderedReduceScatter:
    """Reduce-scatter for FSDP2: sum a rank's passes in its branch, then the ranks in their order.

    It is called once a pass, so gradients must be synchronized in every pass; before the last one
    it keeps what it gets and gives out zeros, which FSDP2 adds up.
    """

    def __init__(self, num_passes: int) -> None:
        self.tree = TreeSum(num_passes)
        self.num_passes = num_passes
        self.num_calls = 0

    def allocate(self, size: Iterable[int], *, dtype: torch.dtype, device: torch.device) -> Tensor:
        """Return memory for gradients that are sent or received."""
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
            input_tensor: (world_size * n,), this rank's gradients in the order of the ranks.
            group: The ranks.
            op: AVG or SUM, as FSDP2 divides itself or not.
            async_op: Not used: FSDP2 calls it on a stream of its own.
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
    """Clip the sharded gradients of FSDP2 as `clip_grad_norm_` does, and return their norm.

    PyTorch adds up the shards' norms, which depend on how many shards there are. The exact norm
    is that of whole gradients; they are gathered one after the other.
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
