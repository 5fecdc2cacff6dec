"""Weights on disk: under the model's own names, whatever wrapped it, whole or not at all."""

import os
from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from .config import SettingError

WEIGHTS_FILE = "model.safetensors"


def save_weights(run_dir: Path, state_dict: Mapping[str, Tensor]) -> None:
    """Write `model.safetensors` under another name and move it into place, synced."""
    # A clone each: safetensors refuses tensors that share memory, as tied weights do.
    tensors = {name: tensor.detach().cpu().clone() for name, tensor in state_dict.items()}
    part = run_dir / f".{WEIGHTS_FILE}.part"
    save_file(tensors, part)
    with part.open("rb") as file:
        os.fsync(file.fileno())
    part.replace(run_dir / WEIGHTS_FILE)


def load_weights(run_dir: Path, model: nn.Module) -> None:
    """Load the weights of a finished run into `model`.

    Raises:
        SettingError: there are none, they are damaged, or they are of another model.
    """
    file = run_dir / WEIGHTS_FILE
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"weights {file} cannot be loaded: {reason}") from error
