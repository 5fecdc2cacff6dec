"""The speed of training: samples, items such as tokens, and FLOPs per second."""

from functools import cached_property

from ..batches.plan import Plan
from .peak_flops import peak_flops
from .stopwatch import Stopwatch
from .trial import Trial


class Speed:
    """Speeds between logged steps, on rank 0."""

    def __init__(self, plan: Plan, stopwatch: Stopwatch, trial: Trial, items: str) -> None:
        self.plan = plan
        self.stopwatch = stopwatch
        self.flops_per_sample = trial.flops_per_sample
        self.items = items
        self.name = f"{items}_per_second"
        self._last = (plan.start_step, stopwatch.seconds)

    def since_last(self, step: int, items: float) -> dict[str, float]:
        """Return the mean speeds since the last call.

        Args:
            step: Optimizer step.
            items: Number of items in this step, which stands for all since the last call.

        Returns:
            samples_per_second; for other items such as tokens, tokens_per_second; and
            model_flops_utilization, the FLOPs of the model, forward and backward, per second and
            FLOP/s of the devices' peak.
        """
        (last_step, last_seconds), seconds = self._last, self.stopwatch.seconds
        self._last = step, seconds
        steps_per_second = (step - last_step) / max(seconds - last_seconds, 1e-9)
        samples = steps_per_second * self.plan.config.global_batch_size
        return {
            "samples_per_second": samples,
            **({} if self.items == "samples" else {self.name: steps_per_second * items}),
            "model_flops_utilization": samples * self.flops_per_sample / self._peak,
        }

    @cached_property
    def _peak(self) -> float:
        # Where it is measured, a slow GPU takes a second, which is not training.
        with self.stopwatch.paused():
            return peak_flops(self.plan.devices, self.plan.config.mixed_precision)
