"""Weights, optimizer and loss scaler, saved from and restored to any placement."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from ..distributed.collectives import broadcast_from_rank_0
from ..distributed.devices import Devices
from ..exact.average import WeightAverage
from ..settings.errors import SettingError
from . import replicated
from .group_values import GroupValues, take_group_values
from .progress import Progress
from .store import OPTIMIZER_FILE, StateTensors, read_tensors
from .weights import AVERAGE_FILE, WEIGHTS_FILE


class TrainingState:
    """The weights, optimizer state and loss scaler that a checkpoint holds.

    All ranks call each method, because FSDP2 has a shard on each; rank 0 reads and writes.
    """

    def __init__(
        self,
        devices: Devices,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler | None,
        average: WeightAverage | None = None,
    ) -> None:
        self.is_main_process = devices.is_main_process
        self.is_on_cpu = devices.device.type == "cpu"
        self.is_sharded = devices.strategy == "fsdp2"
        self._layout: ModuleType = replicated
        if self.is_sharded:  # Not at the top: it takes half a second to import.
            from . import sharded

            self._layout = sharded
        self.model = model
        self.optimizer = optimizer
        _check_state_of(model, optimizer)
        self._groups = GroupValues(optimizer)
        self.average = average or WeightAverage(model, decay=0.0)
        self.scaler = scaler if scaler and scaler.is_enabled() else None

    def weights(self) -> dict[str, Tensor]:
        """Return CPU copies of the full weights on rank 0, named as in the unwrapped model."""
        if not (self.is_main_process or self.is_sharded):
            return {}
        return self._copied(self._layout.model_weights(self.model))

    def averaged_weights(self) -> dict[str, Tensor]:
        """Return CPU copies of the averaged weights on rank 0; of the weights if there is none."""
        with self.average.applied():
            return self.weights()

    def tensors(self) -> StateTensors:
        """Return CPU copies of weights and optimizer state, by file, on rank 0."""
        if not (self.is_main_process or self.is_sharded):
            return {}
        files = {WEIGHTS_FILE: self.weights(), OPTIMIZER_FILE: self._moments()}
        return {**files, AVERAGE_FILE: self.averaged_weights()} if self.average.decay else files

    def _moments(self) -> dict[str, Tensor]:
        groups = self._groups.changed()
        if not self.optimizer.state:
            # Before the first step: PyTorch would initialize it by a step with zero gradients.
            return groups
        # Empty on the ranks that only contribute their shards.
        state = self._copied(_flat(self._layout.optimizer_state(self.model, self.optimizer)))
        return {**state, **groups} if self.is_main_process else state

    def _copied(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return tensors in CPU memory that training does not write to."""
        return {
            name: torch.as_tensor(value).detach().to("cpu", copy=self.is_on_cpu).contiguous()
            for name, value in tensors.items()
        }

    def scaler_state(self) -> dict[str, Any] | None:
        """Return the state of the fp16 loss scaler, None if there is none."""
        return self.scaler.state_dict() if self.scaler else None

    def restore(self, start: Progress, checkpoint: Path | None) -> None:
        """Load the checkpoint that the run resumes from, if there is one.

        Args:
            start: Its progress, the same on every rank.
            checkpoint: Its folder, on rank 0.

        Raises:
            SettingError: it does not fit the model or the optimizer.
        """
        if not start.step:
            return
        files: dict[str, dict[str, Tensor]] = {}
        weights, groups = dict[str, Any](), dict[str, Any]()
        expected = self._layout.initial_state(self.model, self.optimizer)
        state: dict[str, dict[str, Any]] = {}
        without_state: list[str] = []
        if self.is_main_process:
            assert checkpoint is not None
            files = read_tensors(checkpoint)
            weights, moments = files[WEIGHTS_FILE], files[OPTIMIZER_FILE]
            groups = take_group_values(moments)
            _check_fit(checkpoint / WEIGHTS_FILE, weights, self.model.state_dict())
            saved = _by_parameter(moments)
            # A parameter that never had a gradient has no state; PyTorch can only load zeros.
            without_state = [name for name in expected if name not in saved]
            with_state = {name: state for name, state in expected.items() if name in saved}
            _check_fit(checkpoint / OPTIMIZER_FILE, moments, _flat(with_state))
            # Learning rate, weight decay and such come from the settings, not from the file.
            state = {
                name: saved[name] if name in saved else _zeros_like(values)
                for name, values in expected.items()
            }
        has_average = broadcast_from_rank_0(AVERAGE_FILE in files)
        if has_average and self.average.decay:
            averaged: dict[str, Any] = dict(files.get(AVERAGE_FILE, {}))
            self._layout.load_weights(self.model, averaged)
            self.average.start_from_model()
        self._layout.load_weights(self.model, weights)
        if not has_average:
            self.average.start_from_model()
        if expected:
            self._layout.load_optimizer_state(self.model, self.optimizer, state)
        parameters = dict(self.model.named_parameters())
        for name in broadcast_from_rank_0(without_state):
            del self.optimizer.state[parameters[name]]
        self._groups.restore(broadcast_from_rank_0(groups))
        if self.scaler and start.scaler:
            self.scaler.load_state_dict(start.scaler)


def _check_state_of(model: nn.Module, optimizer: Optimizer) -> None:
    """Check that what state the optimizer has is that of the model's parameters."""
    parameters = {id(parameter) for parameter in model.parameters()}
    if any(id(parameter) not in parameters for parameter in optimizer.state):
        raise SettingError(
            f"optimizer.py: {type(optimizer).__name__} has state before the first step, which "
            "Accelerate drops when it shards the parameters; use reference.fsdp2, or DDP"
        )


def _flat(state: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the state of each parameter under names like `momentum_buffer/head.weight`."""
    return {
        f"{name}/{parameter}": value
        for parameter, values in state.items()
        for name, value in values.items()
    }


def _by_parameter(moments: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return the inverse of `_flat`."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, parameter = key.partition("/")
        state.setdefault(parameter, {})[name] = value
    return state


def _zeros_like(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return full tensors of zeros for the state of one parameter, sharded or not."""
    return {name: torch.zeros(torch.as_tensor(value).shape) for name, value in state.items()}


def _check_fit(file: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    shapes, others = (
        {name: tuple(torch.as_tensor(value).shape) for name, value in tensors.items()}
        for tensors in (found, expected)
    )
    wrong = [name for name in {**others, **shapes} if shapes.get(name) != others.get(name)]
    if wrong:
        raise SettingError(
            f"{file} does not fit the model or optimizer: {', '.join(wrong[:3])}"
            f"{' and others' * (len(wrong) > 3)} differ; try another --run-dir"
        )
