"""Losses and gradients that are not finite: found at their step, without waiting for the device."""

import torch
import torch.distributed as dist
from torch import Tensor

from .plan import Plan


class FiniteCheck:
    """Keeps the first step whose loss or gradient norm is not finite, or leaves such steps out.

    To stop there, the number is kept on the device, and read where the run reports or saves
    anyway: no step waits for it, and no checkpoint holds what came of it. To leave steps out, the
    device and the other ranks are asked at every step.
    """

    def __init__(self, plan: Plan) -> None:
        self.skips = plan.config.skip_nonfinite
        self.skipped_steps = plan.start.skipped_steps
        # The scaler of fp16 looks for gradients that overflow, and leaves out such steps itself.
        self.reads_gradients = plan.config.mixed_precision != "fp16"
        self._first = torch.full((1,), torch.inf, device=plan.devices.device)

    def allows(self, step: int, losses: Tensor, grad_norm: Tensor) -> bool:
        """Tell whether the optimizer may take this step; all ranks call it.

        Args:
            step: Optimizer step, from 1.
            losses: (passes per step,), of which this rank's are set.
            grad_norm: (), of the whole gradient.
        """
        total = losses.sum() + grad_norm if self.reads_gradients else losses.sum()
        found = torch.where(torch.isfinite(total), torch.inf, float(step)).reshape(1)
        if not self.skips:
            torch.minimum(self._first, found, out=self._first)
            return True
        is_finite = bool(_lowest(found).isinf())
        self.skipped_steps += not is_finite
        return is_finite or not self.reads_gradients

    def first_step(self) -> int | None:
        """Return the first step that was not finite, None where all were; all ranks call it."""
        first = float(_lowest(self._first.clone()))
        return None if first == torch.inf else int(first)


def _lowest(steps: Tensor) -> Tensor:
    if dist.is_available() and dist.is_initialized():
        dist.all_reduce(steps, dist.ReduceOp.MIN)
    return steps
