"""AdamW with two learning rates, whose ratio the schedule keeps."""

import torch
from torch import nn

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    layers = list(model.parameters())
    return torch.optim.AdamW(
        [
            {"params": layers[:2], "lr": 0.1 * config.learning_rate},
            {"params": layers[2:], "lr": config.learning_rate},
        ],
        weight_decay=config.weight_decay,
        foreach=True,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, total_steps: int
) -> float:
    """Set the rates of both groups: linear warm-up, then linear decay."""
    factor = min(1.0, step / max(1, config.warmup_steps), (total_steps + 1 - step) / total_steps)
    for group in optimizer.param_groups:
        group["lr"] = group.setdefault("initial_lr", group["lr"]) * factor
    return max(float(group["lr"]) for group in optimizer.param_groups)
