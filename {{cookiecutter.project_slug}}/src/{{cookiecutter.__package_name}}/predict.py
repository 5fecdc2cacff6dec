"""Use a trained model: classify image files, with the probability of the predicted class."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from .checkpoint.data_info import load_data_info
from .checkpoint.resume import weights_folder
from .checkpoint.weights import load_weights
from .config import TrainConfig
from .data import read_inputs
from .model import make_model
from .settings.command_line import parse_command_line
from .settings.config_file import CONFIG_FILE, load_config
from .settings.errors import SettingError, errors_in_one_line


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Classify files with the trained model of a run folder."""

    run_dir: Path
    """Folder of the run."""

    checkpoint: str | None = None
    """Weights to use: latest, best (by validation) or step_00000038; None uses the final ones."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Image files to classify."""


@torch.inference_mode()
def predict(settings: PredictConfig) -> list[tuple[str, float]]:
    """Return the most probable class of each file, and its probability in [0, 1].

    Raises:
        SettingError: a file or the run folder cannot be read.
    """
    if not settings.files:
        raise SettingError("no file to classify; add image files after the flags")
    config = load_config(TrainConfig, settings.run_dir / CONFIG_FILE)
    info = load_data_info(settings.run_dir)
    model = make_model(config, info).eval()
    load_weights(weights_folder(settings.run_dir, settings.checkpoint), model)
    try:
        inputs = read_inputs(settings.files)
    except ValueError as error:
        raise SettingError(str(error)) from error
    probabilities = model(inputs).softmax(dim=1)
    best = probabilities.max(dim=1)
    return [
        (info["classes"][index], probability)
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def main() -> None:
    """Print a line for each file."""
    with errors_in_one_line():
        settings = parse_command_line(PredictConfig)
        for file, (name, probability) in zip(settings.files, predict(settings), strict=True):
            print(f"{file}: {name} ({probability:.1%})")


if __name__ == "__main__":
    main()
