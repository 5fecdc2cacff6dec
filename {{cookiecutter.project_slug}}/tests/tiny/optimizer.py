import torch
from torch import nn

from my_run.run.schedule import (
    scale_learning_rates,
    warmup_cosine,
)

from .config import TrainConfig


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(
        groups, lr=config.learning_rate, momentum=0.9, nesterov=True, foreach=True
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, total_steps: int
) -> float:
    factor = warmup_cosine(step, config.warmup_steps, total_steps)
    return scale_learning_rates(optimizer, factor)
