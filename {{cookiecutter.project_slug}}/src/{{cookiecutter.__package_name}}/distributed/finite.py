"""Steps whose loss or gradient is NaN or inf: found without a host-device sync per step."""

import torch
from torch import Tensor

from .collectives import min_over_ranks

# The collected sums are looked at after this many steps at the latest.
MOST_KEPT = 256


class FiniteCheck:
    """Records the first non-finite step on the device, or skips such steps.

    To stop the run, the sums are looked at where the loop reads from the device anyway, before it
    logs or saves: no checkpoint contains a NaN. Skipping costs a device sync and an all-reduce in
    every step.
    """

    def __init__(
        self,
        device: torch.device,
        *,
        skip_nonfinite: bool,
        check_gradients: bool,
        skipped_steps: int = 0,
    ) -> None:
        self.skip_nonfinite = skip_nonfinite
        self.check_gradients = check_gradients
        """False for fp16, whose loss scaler looks for overflowing gradients and skips them."""

        self.skipped_steps = skipped_steps
        self._first = torch.full((), torch.inf, device=device)
        self._totals: dict[int, Tensor] = {}
        """By step, what is NaN or inf if its loss or gradient is."""

    def should_step(self, step: int, losses: Tensor, grad_norm: Tensor) -> bool:
        """Return whether the optimizer may take this step; all ranks call it.

        Args:
            step: Optimizer step, from 1.
            losses: (passes per step,), of which this rank's are set.
            grad_norm: (), of the whole gradient.
        """
        total = losses.sum() + grad_norm if self.check_gradients else losses.sum()
        self._totals[step] = total
        if not self.skip_nonfinite:
            if len(self._totals) == MOST_KEPT:
                self._look()
            return True
        is_finite = self.first_step() is None
        self._first.fill_(torch.inf)
        self.skipped_steps += not is_finite
        return is_finite or not self.check_gradients

    def first_step(self) -> int | None:
        """Return the first non-finite step of any rank, or None; all ranks call it."""
        self._look()
        first = float(min_over_ranks(self._first.clone()))
        return None if first == torch.inf else int(first)

    def _look(self) -> None:
        """Look at the sums, all at once: that is cheaper than in each step."""
        if self._totals:
            steps = torch.tensor([*self._totals], device=self._first.device).float()
            totals = torch.stack([*self._totals.values()])
            first = torch.where(totals.isfinite(), torch.inf, steps).min()
            torch.minimum(self._first, first, out=self._first)
            self._totals.clear()
