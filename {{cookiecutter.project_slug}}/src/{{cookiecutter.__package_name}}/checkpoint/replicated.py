"""Weights and optimizer state where each rank has all of them: by names, read and loaded.

`sharded.py` does the same for FSDP2.
"""

from collections.abc import Mapping
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed.collectives import is_distributed

StateByParameter = dict[str, dict[str, Any]]


def model_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """Return the weights by their names."""
    weights: dict[str, Tensor] = model.state_dict()
    return weights


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> StateByParameter:
    """Return the state of each parameter that has one."""
    names: dict[Tensor, str] = {weight: name for name, weight in model.named_parameters()}
    return {names[parameter]: state for parameter, state in optimizer.state.items()}


def initial_state(model: nn.Module, optimizer: Optimizer) -> StateByParameter:
    """Make the optimizer initialize its state, by a step of zeros at rate zero; return it.

    As `torch.distributed.checkpoint` does it; no optimizer has another way.
    """
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] = torch.zeros_like(group["lr"]) if isinstance(group["lr"], Tensor) else 0.0
        for parameter in group["params"]:
            if parameter.requires_grad:
                parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    return optimizer_state(model, optimizer)


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load rank 0's weights on every rank; the others may give none."""
    _load(model_weights(model), weights)


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: StateByParameter) -> None:
    """Load rank 0's state on every rank; the others may give none.

    It is copied into the initial state that each rank has.
    """
    for name, values in optimizer_state(model, optimizer).items():
        # Some optimizers count steps in a number.
        targets = {key: torch.as_tensor(value) for key, value in values.items()}
        _load(targets, state.get(name, {}))
        for key, value in values.items():
            if not isinstance(value, Tensor):
                values[key] = type(value)(targets[key].item())


@torch.no_grad()
def _load(targets: Mapping[str, Tensor], values: Mapping[str, Any]) -> None:
    """Copy values by name, in place; on several processes, rank 0's."""
    for name, target in targets.items():
        if values:
            target.copy_(torch.as_tensor(values[name]))
        if is_distributed():
            sent = target
            if dist.get_backend() != "gloo":
                # NCCL and its kin cannot send the CPU tensors in which optimizers count steps.
                sent = target.to(torch.accelerator.current_device_index())
            dist.broadcast(sent, 0)
            target.copy_(sent)
