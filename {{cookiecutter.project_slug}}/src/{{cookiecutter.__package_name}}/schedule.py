"""The learning rate as a pure function of the step: nothing to store, nothing to step twice."""

import math


def learning_rate_at(step: int, *, peak: float, warmup_steps: int, total_steps: int) -> float:
    """Return the rate of optimizer step `step`, from 1: linear warm-up to the peak, then a cosine.

    The cosine would reach zero at the step after the last.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, without restarts.
    """
    if step <= warmup_steps:
        return peak * step / warmup_steps
    progress = (step - warmup_steps) / (total_steps + 1 - warmup_steps)
    return peak * 0.5 * (1 + math.cos(math.pi * progress))
