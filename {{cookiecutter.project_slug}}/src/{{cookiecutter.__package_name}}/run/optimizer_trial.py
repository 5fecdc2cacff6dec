"""A trial of the optimizer before training: what the loop, the checkpoints and FSDP2 ask of it."""

import copy
import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed.devices import Devices
from ..settings.errors import SettingError
from .model_checks import check_parameters
from .users_code import errors_named

Make = Callable[[nn.Module, Any], Optimizer]
SetRate = Callable[[Optimizer, int, Any, int], float]
NUM_RATES = 100


def try_out_optimizer(
    make_optimizer: Make,
    set_learning_rate: SetRate,
    config: Any,
    model: nn.Module,
    devices: Devices,
) -> None:
    """Let the optimizer step on copies of some parameters; freeze those that it does not hold.

    Nothing would reset the gradients of the latter: they would add up in the norm, and be missing
    after a resume.

    Raises:
        SettingError: one of the functions or the step fails, the rate depends on the calls before,
            checkpoints cannot hold the state, or exact sums are asked for where the step depends on
            how FSDP2 shards the parameters.
    """
    check_parameters(model)
    whole = _Copies(make_optimizer, config, model, devices.device, num_parts=1)
    _freeze_others(model, whole.parameters)
    whole.step()
    _check_rates(set_learning_rate, whole.optimizer, config)
    for state in whole.optimizer.state.values():
        for name, value in state.items():
            if not isinstance(value, Tensor | int | float):
                raise SettingError(
                    f"optimizer.py: {whole.name} keeps {name}, a {type(value).__name__}, in its "
                    "state; checkpoints hold tensors and numbers"
                )
    if devices.exact and devices.strategy == "fsdp2":
        halves = _Copies(make_optimizer, config, model, devices.device, num_parts=2)
        halves.step()
        pairs = zip(whole.results(), halves.results(), strict=True)
        if not all(torch.equal(one, other) for one, other in pairs):
            raise SettingError(
                f"optimizer.py: a step of {whole.name} takes whole parameters, of which FSDP2 "
                "gives each rank a part: its rounding would differ from that of other placements; "
                "use DDP, or --no-exact"
            )


def _check_rates(set_learning_rate: SetRate, optimizer: Optimizer, config: Any) -> None:
    """Check that `set_learning_rate` returns a number, and depends on nothing but the step."""

    def values_at(step: int) -> str:
        with errors_named("optimizer.py", "set_learning_rate"):
            rate = set_learning_rate(optimizer, step, config, NUM_RATES)
        if not isinstance(rate, int | float):
            raise SettingError(
                f"optimizer.py: set_learning_rate returned a {type(rate).__name__}; return the "
                "rate, or the highest of several, as a number"
            )
        if _trainable(optimizer) != trainable:
            raise SettingError(
                "optimizer.py: set_learning_rate freezes or unfreezes parameters, which DDP and "
                "FSDP2 do not follow; train them from the start, at a rate of 0 while frozen"
            )
        groups = [{**group, "params": None} for group in optimizer.param_groups]
        return f"{rate} {groups}"

    trainable = _trainable(optimizer)
    first, again = ([values_at(step + 1) for step in range(NUM_RATES)] for _ in range(2))
    if first != again:
        raise SettingError(
            "optimizer.py: set_learning_rate gave another rate for the same step when it was "
            "called again, as in a resumed run; make the rate a function of the step"
        )


def _trainable(optimizer: Optimizer) -> list[bool]:
    return [p.requires_grad for group in optimizer.param_groups for p in group["params"]]


class _Copies:
    """An optimizer of its own, whose groups have copies of a few parameters, in parts."""

    def __init__(
        self,
        make_optimizer: Make,
        config: Any,
        model: nn.Module,
        device: torch.device,
        num_parts: int,
    ) -> None:
        with errors_named("optimizer.py", "make_optimizer"):
            self.optimizer = make_optimizer(model, config)
        if not isinstance(self.optimizer, Optimizer):
            raise SettingError(
                f"optimizer.py: make_optimizer returned a {type(self.optimizer).__name__}; return "
                "one torch.optim.Optimizer"
            )
        self.name = type(self.optimizer).__name__
        self.parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        self._parts: list[list[Tensor]] = []
        generator = torch.Generator().manual_seed(0)
        for group in self.optimizer.param_groups:
            copies = []
            for parameter in _smallest(group["params"]):
                gradient = torch.randn(parameter.shape, generator=generator)
                copies.append(self._copied(parameter, gradient, device, num_parts))
            self._parts += copies
            frozen = [p.detach().clone() for p in group["params"] if not p.requires_grad][:1]
            group["params"] = [part for parts in copies for part in parts] + frozen

    def _copied(
        self, parameter: Tensor, gradient: Tensor, device: torch.device, num_parts: int
    ) -> list[Tensor]:
        """Return a copy with a gradient, in parts, of which each has its part of the state."""

        def divided(tensor: Tensor) -> list[Tensor]:
            on_device = tensor.detach().to(device)
            parts = on_device.chunk(num_parts) if tensor.ndim else (on_device,)
            return [part.clone() for part in parts]

        parts = divided(parameter)
        gradients = divided(gradient.to(parameter.dtype))
        # Some optimizers have state before the first step.
        state = self.optimizer.state.pop(parameter, {})
        for index, part in enumerate(parts):
            part.requires_grad_().grad = gradients[index]
            if state:
                self.optimizer.state[part] = {
                    name: divided(value)[index]
                    if isinstance(value, Tensor) and value.shape == parameter.shape
                    else copy.deepcopy(value)
                    for name, value in state.items()
                }
        return parts

    def step(self) -> None:
        """Step once, as the loop does."""
        closure = inspect.signature(self.optimizer.step).parameters.get("closure")
        if closure is not None and closure.default is inspect.Parameter.empty:
            raise SettingError(
                f"optimizer.py: {self.name} needs a closure, which computes the loss several times "
                "in a step; use an optimizer whose step() needs none"
            )
        with errors_named("optimizer.py", f"a step of {self.name}"):
            self.optimizer.step()

    def results(self) -> list[Tensor]:
        """Return the copies, put together."""
        return [torch.cat([part.flatten() for part in parts]) for parts in self._parts]


def _smallest(parameters: list[Tensor]) -> list[Tensor]:
    """Return the smallest of the matrices, and of the vectors; those that can be divided first."""
    trainable = [p for p in parameters if p.requires_grad]
    kinds = ([p for p in trainable if (p.ndim > 1) == is_matrix] for is_matrix in (True, False))
    return [
        min(kind, key=lambda p: (p.ndim == 0 or len(p) == 1, p.numel())) for kind in kinds if kind
    ]


def _freeze_others(model: nn.Module, parameters: list[Tensor]) -> None:
    """Freeze the parameters that the optimizer does not have; each of its own must be the model's.

    Raises:
        SettingError: one is not.
    """
    of_model, of_optimizer = ({id(p) for p in some} for some in (model.parameters(), parameters))
    if of_optimizer - of_model:
        raise SettingError(
            "optimizer.py: a group has a parameter that the model does not have; give it to the "
            "module that make_model returns"
        )
    for parameter in model.parameters():
        if id(parameter) not in of_optimizer:
            parameter.requires_grad_(False)
