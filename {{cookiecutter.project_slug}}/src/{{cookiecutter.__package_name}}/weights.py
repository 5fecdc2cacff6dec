"""The weights of a model on disk, under the model's own names, whatever wrapped it."""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from .errors import SettingError
from .files import PART, move_into_place, write_tensors

WEIGHTS_FILE = "model.safetensors"


def save_weights(run_dir: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write the final weights under another name and move them into place, synced."""
    part = run_dir / PART.format(WEIGHTS_FILE)
    write_tensors(part, tensors)
    move_into_place(part, run_dir / WEIGHTS_FILE)


def load_weights(folder: Path, model: nn.Module) -> None:
    """Load the weights of a finished run, or of a checkpoint, into `model`.

    Raises:
        SettingError: there are none, they are damaged, or they are of another model.
    """
    file = folder / WEIGHTS_FILE
    try:
        model.load_state_dict(load_file(file))
    except (OSError, SafetensorError, RuntimeError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"weights {file} cannot be loaded: {reason}") from error
