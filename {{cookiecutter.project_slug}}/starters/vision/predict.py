"""Use a trained model: classify image files, with the probability of the predicted class."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from .config import TrainConfig
from .data import read_inputs
from .model import make_model
from .run.trained import TrainedRun
from .settings.command_line import parse_command_line
from .settings.errors import SettingError, check_printed, errors_in_one_line

BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedRun):
    """Classify files with the trained model of a run folder."""

    json: bool = False
    """Print a JSON object per file instead of text."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Image files to classify."""


@torch.inference_mode()
def predict(settings: PredictConfig) -> Iterator[tuple[str, float]]:
    """Yield the most probable class of each file, and its probability in [0, 1]."""
    if not settings.files:
        raise SettingError("no file to classify; add image files after the flags")
    _, info, model = settings.load(TrainConfig, make_model)
    for start in range(0, len(settings.files), BATCH_SIZE):
        images = read_inputs(settings.files[start : start + BATCH_SIZE], info)
        probabilities, classes = model(images).softmax(dim=1).max(dim=1)
        for index, probability in zip(classes.tolist(), probabilities.tolist(), strict=True):
            yield info["classes"][index], probability


def main() -> None:
    """Print a line for each file."""
    with errors_in_one_line():
        settings = parse_command_line(PredictConfig)
        for file, (name, probability) in zip(settings.files, predict(settings), strict=True):
            line = {"file": str(file), "class": name, "probability": probability}
            print(json.dumps(line) if settings.json else f"{file}: {name} ({probability:.1%})")
        check_printed()


if __name__ == "__main__":
    main()
