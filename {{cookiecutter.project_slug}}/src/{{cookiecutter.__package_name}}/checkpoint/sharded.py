"""Weights and optimizer state that FSDP2 has sharded: gathered, and loaded into the shards."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from ..distributed.collectives import is_distributed
from .replicated import StateByParameter

FULL = StateDictOptions(full_state_dict=True, cpu_offload=True)


def model_weights(model: nn.Module) -> Mapping[str, Tensor]:
    """Return the full weights by their names, on rank 0; all ranks call it."""
    weights: dict[str, Any] = get_model_state_dict(model, options=FULL)
    return weights


def optimizer_state(model: nn.Module, optimizer: Optimizer) -> StateByParameter:
    """Return the full state of each parameter that has one, on rank 0; all ranks call it."""
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer, options=FULL)
    return dict(state.get("state", {}))


def initial_state(model: nn.Module, optimizer: Optimizer) -> StateByParameter:
    """Make the optimizer initialize its state, and return it, in shards."""
    state: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    return dict(state["state"])


def load_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    """Load rank 0's weights on every rank; the others may give none."""
    set_model_state_dict(model, dict(weights), options=_broadcast())


def load_optimizer_state(model: nn.Module, optimizer: Optimizer, state: StateByParameter) -> None:
    """Load rank 0's state on every rank, into an initial one."""
    all_of_it: dict[str, Any] = get_optimizer_state_dict(model, optimizer)
    all_of_it["state"] = state or all_of_it["state"]
    set_optimizer_state_dict(model, optimizer, all_of_it, options=_broadcast())


def _broadcast() -> StateDictOptions:
    return StateDictOptions(full_state_dict=True, broadcast_from_rank0=is_distributed())
