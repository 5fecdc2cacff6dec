"""The optimizer, here AdamW, and its learning rate: replace this file by your own."""

import torch
from torch import nn

from .config import TrainConfig
from .run.schedule import scale_learning_rates, warmup_linear


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    """Return AdamW with two parameter groups: weight decay on matrices, not on norms."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    on_gpu = parameters[0].is_cuda
    kernels = {"fused": on_gpu, "foreach": not on_gpu}
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), **kernels)


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, total_steps: int
) -> float:
    """Set the rate of each group for optimizer step `step`, in their ratio; return the highest."""
    factor = warmup_linear(step, config.warmup_steps, total_steps)
    return scale_learning_rates(optimizer, factor)
