"""A tenth of the rate for the pretrained layers, and none for the frozen ones."""

import torch
from torch import nn

from .config import TrainConfig
from .run.schedule import scale_learning_rates, warmup_cosine


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        [
            {"params": list(model.tuned.parameters()), "lr": 0.1 * config.learning_rate},
            {"params": list(model.head.parameters()), "lr": config.learning_rate},
        ],
        foreach=True,
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, total_steps: int
) -> float:
    factor = warmup_cosine(step, config.warmup_steps, total_steps)
    return scale_learning_rates(optimizer, factor)
