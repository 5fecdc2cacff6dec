"""The sums of one optimizer step over its micro-batches and all ranks.

The gradient of a step is that of the sum of all losses in its global batch, divided once by the
number of items that they are over: samples, tokens, pixels. A mean of micro-batch means is not,
where these numbers differ: 2.8 % off at micro-batches of 8, with 8 to 96 tokens per sequence.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from ..batches.means import exact_mean
from ..batches.plan import Plan
from ..distributed.collectives import sum_over_ranks
from ..distributed.shards import local_part
from ..settings.errors import SettingError
from .batch_norm import BatchNormSum
from .gradients import GradientSum


class StepSums:
    """Losses, items, gradients and BatchNorm statistics of a step; made after wrapping the model.

    `compute_loss` returns the number of items as an int if every sample has as many: then it is
    known in advance, and dividing by it costs nothing. As a tensor, it is summed over micro-batches
    and ranks, and the gradient is rescaled.

    Args:
        parallel_model: The wrapped model.
        model: The model itself.
        plan: Plan of the run.
        without_gradient: Parameters that got no gradient in the trial. If there are any, the
            optimizer skips in each step those that get none; otherwise all count as used.
        items_per_sample: Of each sample; None if it varies.
    """

    def __init__(
        self,
        parallel_model: nn.Module,
        model: nn.Module,
        plan: Plan,
        without_gradient: list[str],
        items_per_sample: int | None,
    ) -> None:
        device = plan.devices.device
        self.plan = plan
        self.gradients = GradientSum(parallel_model, plan)
        self.batch_norm = BatchNormSum(model, plan)
        self.losses = torch.zeros(plan.passes_per_step, device=device)
        """(passes per step,): sums of the losses, of which this rank's are set."""

        self.items = torch.zeros(plan.passes_per_step, device=device, dtype=_wide(device))
        """(passes per step,): what they are sums over."""

        self.items_per_pass = (items_per_sample or 1) * plan.samples_per_pass
        self.items[plan.passes.start : plan.passes.stop] = self.items_per_pass
        # Not by what a rank sees: all of them add up the items, or none does.
        self.is_constant = items_per_sample is not None
        self.ddp = parallel_model if isinstance(parallel_model, DistributedDataParallel) else None
        self.parameters = [p for p in parallel_model.parameters() if p.requires_grad]
        # One rule for all, whichever micro-batch the trial had, at the cost of a hook on each.
        self.optional = self.parameters if without_gradient else []
        self.is_used = torch.zeros(len(self.optional), dtype=torch.int32, device=device)
        for index, parameter in enumerate(self.optional):
            parameter.register_hook(self._mark_used(index))  # type: ignore[no-untyped-call]

    def per_item(self, loss: Tensor) -> Tensor:
        """Return the sum of a pass's losses as their mean, connected to every parameter.

        Where the number of items varies, it is the mean over samples, which `finish` rescales. DDP
        waits for the gradient of each parameter, in the pass after which it sums: one that this
        pass does not use gets none, but is ready.
        """
        if not loss.requires_grad:
            raise SettingError(
                "model.py: compute_loss returned a loss without the model in it, which DDP and "
                "FSDP2 need in every micro-batch; where there is no loss, return 0 times the sum "
                "of the model's outputs"
            )
        self.batch_norm.note()
        if self.ddp is not None and self.ddp.require_backward_grad_sync:
            connect: Any = _Connect.apply  # Some versions of torch give it types.
            loss = connect(loss, *self.parameters)
        return loss / self.items_per_pass

    def collect(self, k: int, loss: Tensor, items: int | Tensor) -> None:
        """Collect forward pass k of the step, after its backward pass."""
        self.gradients.collect()
        self.batch_norm.collect(k)
        self.losses[k] = loss.detach()
        if not self.is_constant:
            self.items[k] = items.detach() if isinstance(items, Tensor) else items
        elif isinstance(items, Tensor) or items != self.items_per_pass:
            found = "a tensor" if isinstance(items, Tensor) else items
            raise SettingError(
                f"model.py: compute_loss returned {found} as the number of items of "
                f"{self.plan.samples_per_pass} samples, and {self.items_per_pass} before; return a "
                "tensor from every micro-batch if it varies"
            )

    def finish(self) -> None:
        """Divide the gradient by the items of the global batch; all ranks call it."""
        self.batch_norm.finish()
        for parameter in self.parameters:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
        if not self.is_constant:
            total = sum_over_ranks(self.items.clone()).sum()
            # A global batch may have no item, as where no pair is hard: its gradient is zero.
            total = torch.where(total == 0, torch.ones_like(total), total)
            factor = (self.items_per_pass * self.plan.passes_per_step / total).float()
            torch._foreach_mul_([local_part(p.grad) for p in self.parameters], factor)
        if self.optional:
            is_used = sum_over_ranks(self.is_used).tolist()
            for parameter, used in zip(self.optional, is_used, strict=True):
                if not used:
                    parameter.grad = None
            self.is_used.zero_()

    def mean_loss(self) -> tuple[float, float]:
        """Return the loss per item of the global batch, and their number; all ranks call it."""
        losses, items = (sum_over_ranks(t.clone()) for t in (self.losses, self.items))
        return exact_mean(losses, items), items.sum().item()

    def _mark_used(self, index: int) -> Any:
        def mark(gradient: Tensor | None) -> None:
            if gradient is not None:  # `_Connect` gives none.
                self.is_used[index] = 1

        return mark


def _wide(device: torch.device) -> torch.dtype:
    """Return a type that counts exactly: MPS has no float64."""
    return torch.float32 if device.type == "mps" else torch.float64


class _Connect(torch.autograd.Function):
    """The identity of a loss; its backward pass gives each parameter an undefined gradient."""

    @staticmethod
    def forward(ctx: Any, loss: Tensor, *parameters: Tensor) -> Tensor:
        ctx.num_parameters = len(parameters)
        return loss.view_as(loss)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return (*gradients, *[None] * ctx.num_parameters)
