"""The optimizer, here SGD, and its learning rate: replace this file by your own."""

import torch
from torch import nn

from .config import TrainConfig
from .run.schedule import scale_learning_rates, warmup_cosine


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return SGD with two parameter groups: weight decay on matrices, not on biases and norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    # foreach, not fused: torch 2.13 has no fused SGD for the sharded parameters of FSDP2.
    return torch.optim.SGD(groups, config.learning_rate, momentum=0.9, nesterov=True, foreach=True)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, total_steps: int
) -> float:
    """Set the rate of each group for optimizer step `step`, in their ratio; return the highest."""
    factor = warmup_cosine(step, config.warmup_steps, total_steps)
    return scale_learning_rates(optimizer, factor)
