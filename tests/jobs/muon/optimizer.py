"""Muon for the matrices of the hidden layers, AdamW for all else: two optimizers as one."""

from collections.abc import Callable

import torch
from torch import nn

from .config import TrainConfig
from .run.schedule import scale_learning_rates, warmup_cosine


class Combined(torch.optim.Optimizer):
    """Steps with several optimizers; has the groups and the state of all."""

    def __init__(self, *optimizers: torch.optim.Optimizer) -> None:
        super().__init__([group for one in optimizers for group in one.param_groups], {})
        self.optimizers = optimizers

    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        first = 0
        for optimizer in self.optimizers:
            last = first + len(optimizer.param_groups)
            # Loading a checkpoint replaces both.
            optimizer.param_groups = self.param_groups[first:last]
            optimizer.state = self.state
            optimizer.step()
            first = last


def make_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.Optimizer:
    named = dict(model.named_parameters())
    hidden = [p for name, p in named.items() if "blocks" in name and p.ndim == 2]
    rest = [p for p in named.values() if not any(p is other for other in hidden)]
    return Combined(
        torch.optim.Muon(hidden, lr=config.learning_rate, weight_decay=config.weight_decay),
        torch.optim.AdamW(rest, lr=0.1 * config.learning_rate, weight_decay=0.0),
    )


def set_learning_rate(
    optimizer: torch.optim.Optimizer, step: int, config: TrainConfig, total_steps: int
) -> float:
    factor = warmup_cosine(step, config.warmup_steps, total_steps)
    return scale_learning_rates(optimizer, factor)
