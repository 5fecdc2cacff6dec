"""What a run changes while it trains, gathered from and given to any placement."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)
from torch.optim import Optimizer

from .checkpoint import OPTIMIZER_FILE, StateTensors, read_tensors
from .devices import Devices, from_rank_0
from .errors import SettingError
from .run_folder import RunFolder
from .weights import WEIGHTS_FILE

WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)


class TrainingState:
    """Weights, optimizer and scaler: all that a checkpoint has to hold beside the step.

    Every rank calls the methods, since shards have parts on each; rank 0 has the files.
    """

    def __init__(
        self,
        devices: Devices,
        model: nn.Module,
        optimizer: Optimizer,
        scaler: torch.amp.GradScaler | None,
    ) -> None:
        self.is_first = devices.rank == 0
        self.world_size = devices.world_size
        self.is_on_cpu = devices.device.type == "cpu"
        self.is_sharded = devices.strategy == "fsdp2"
        self.model = model
        self.optimizer = optimizer
        self.scaler = scaler if scaler and scaler.is_enabled() else None

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the whole weights on the CPU, under the model's own names, on rank 0."""
        if not (self.is_first or self.is_sharded):
            return {}
        return self._kept(get_model_state_dict(self.model, options=WHOLE))

    def tensors(self) -> StateTensors:
        """Return copies of weights and optimizer state as files of tensors, on rank 0."""
        if not (self.is_first or self.is_sharded):
            return {}
        weights = self.weights()
        if not self.optimizer.state:
            # No step was taken yet; PyTorch would take one with zeros, whose momentum stays.
            return {WEIGHTS_FILE: weights, OPTIMIZER_FILE: {}}
        # Ranks that only lend their shards get nothing.
        state: dict[str, Any] = get_optimizer_state_dict(self.model, self.optimizer, options=WHOLE)
        return {WEIGHTS_FILE: weights, OPTIMIZER_FILE: self._kept(_flat(state.get("state", {})))}

    def _kept(self, tensors: Mapping[str, Any]) -> dict[str, Tensor]:
        """Return tensors on the CPU that training does not go on in; from a GPU they are copies."""
        return {
            name: torch.as_tensor(value).detach().to("cpu", copy=self.is_on_cpu).contiguous()
            for name, value in tensors.items()
        }

    def scaler_state(self) -> dict[str, Any] | None:
        """Return the numbers of the fp16 loss scaler, None where there is none."""
        return self.scaler.state_dict() if self.scaler else None

    def restore(self, run_folder: RunFolder) -> None:
        """Take over the checkpoint that the run goes on from, if there is one.

        Raises:
            SettingError: it is of another model or another optimizer.
        """
        if not run_folder.progress.step:
            return
        weights: dict[str, Any] = {}
        optimizer_state: dict[str, Any] = get_optimizer_state_dict(self.model, self.optimizer)
        expected = optimizer_state["state"]
        untouched: list[str] = []
        if self.is_first:
            assert run_folder.resumed is not None
            files = read_tensors(run_folder.resumed)
            weights, moments = files[WEIGHTS_FILE], files[OPTIMIZER_FILE]
            _check_fit(run_folder.resumed / WEIGHTS_FILE, weights, self.model.state_dict())
            saved = _by_parameter(moments)
            # A parameter that no step has touched has no state, and gets some only to load it.
            untouched = [name for name in expected if name not in saved]
            touched = {name: state for name, state in expected.items() if name in saved}
            _check_fit(run_folder.resumed / OPTIMIZER_FILE, moments, _flat(touched))
            # Rates, decays and such are the settings' to say: only tensors come from the file.
            optimizer_state["state"] = {
                name: saved[name] if name in saved else _zeros_like(state)
                for name, state in expected.items()
            }
        options = StateDictOptions(full_state_dict=True, broadcast_from_rank0=self.world_size > 1)
        set_model_state_dict(self.model, weights, options=options)
        if expected:
            set_optimizer_state_dict(self.model, self.optimizer, optimizer_state, options=options)
        parameters = dict(self.model.named_parameters())
        for name in from_rank_0(untouched):
            del self.optimizer.state[parameters[name]]
        if self.scaler and run_folder.progress.scaler:
            self.scaler.load_state_dict(run_folder.progress.scaler)


def _flat(state: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return an optimizer's state, given by parameter, as one level of names."""
    return {
        f"{name}/{parameter}": value
        for parameter, values in state.items()
        for name, value in values.items()
    }


def _by_parameter(moments: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return what `_flat` returned as it was given."""
    state: dict[str, dict[str, Tensor]] = {}
    for key, value in moments.items():
        name, _, parameter = key.partition("/")
        state.setdefault(parameter, {})[name] = value
    return state


def _zeros_like(state: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return whole tensors of zeros in the shapes of one parameter's state, shards or not."""
    return {name: torch.zeros(torch.as_tensor(value).shape) for name, value in state.items()}


def _check_fit(file: Path, found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    shapes, others = (
        {name: tuple(torch.as_tensor(value).shape) for name, value in tensors.items()}
        for tensors in (found, expected)
    )
    wrong = [name for name in {**others, **shapes} if shapes.get(name) != others.get(name)]
    if wrong:
        raise SettingError(
            f"{file} is of another model or optimizer: {', '.join(wrong[:3])}"
            f"{' and others' * (len(wrong) > 3)} differ; try another --run-dir"
        )
