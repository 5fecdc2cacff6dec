"""Weights on disk, under the names of the unwrapped model."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ..settings.errors import SettingError
from .atomic import PART, rename_synced, write_tensors

WEIGHTS_FILE = "model.safetensors"
# Of a checkpoint whose weights are averaged too; the final weights are the average then.
AVERAGE_FILE = "average.safetensors"


def save_weights(run_dir: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the final weights atomically.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    part = run_dir / PART.format(WEIGHTS_FILE)
    write_tensors(part, tensors)
    rename_synced(part, run_dir / WEIGHTS_FILE)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights of a finished run, or of a checkpoint, into `model`: the averaged ones.

    Raises:
        SettingError: they are missing or corrupted, or do not fit the model.
    """
    file = folder / AVERAGE_FILE
    file = file if file.exists() else folder / WEIGHTS_FILE
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"weights {file} cannot be loaded: {reason}") from error
