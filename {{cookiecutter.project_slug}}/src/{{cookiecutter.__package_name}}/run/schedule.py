"""Learning rates as functions of the step alone, so that there is no scheduler to save."""

import math

import torch


def scale_learning_rates(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Set each group's rate to `factor` times the one it was made with; return the highest."""
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)


def warmup_cosine(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the part of the peak rate at step `step`, from 1: linear warm-up, then a cosine.

    The cosine reaches zero one step after the last.

    Source: Loshchilov and Hutter, SGDR, 2017, equation 5, without restarts.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    progress = (step - warmup_steps) / (total_steps + 1 - warmup_steps)
    return 0.5 * (1 + math.cos(math.pi * progress))


def warmup_linear(step: int, warmup_steps: int, total_steps: int) -> float:
    """Return the part of the peak rate at step `step`, from 1: linear warm-up, then linear decay.

    The decay reaches zero one step after the last.
    """
    if step <= warmup_steps:
        return step / warmup_steps
    return (total_steps + 1 - step) / (total_steps + 1 - warmup_steps)
