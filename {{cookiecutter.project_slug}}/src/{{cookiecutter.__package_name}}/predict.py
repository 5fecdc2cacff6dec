"""Use a trained model: say what is in image files, with the probability of each answer."""

from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from .command_line import parse_command_line
from .data import CLASS_NAMES, read_inputs
from .errors import SettingError, errors_in_one_line
from .model import Classifier
from .resume import weights_folder
from .weights import load_weights


@dataclass(frozen=True, kw_only=True)
class PredictConfig:
    """Classify files with the trained model of a run folder."""

    run_dir: Path
    """Folder of a run: its weights are read."""

    checkpoint: str | None = None
    """Weights to take: None the final ones; newest, best in validation, or step_00000038 and so."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Files to classify."""


@torch.inference_mode()
def predict(settings: PredictConfig) -> list[tuple[str, float]]:
    """Return the most probable class of each file, and its probability in [0, 1].

    Raises:
        SettingError: a file or the run folder cannot be read.
    """
    if not settings.files:
        raise SettingError("no file to classify; type its name behind the flags")
    model = Classifier().eval()
    load_weights(weights_folder(settings.run_dir, settings.checkpoint), model)
    try:
        inputs = read_inputs(settings.files)
    except ValueError as error:
        raise SettingError(str(error)) from error
    probabilities = model(inputs).softmax(dim=1)
    best = probabilities.max(dim=1)
    return [
        (CLASS_NAMES[index], probability)
        for index, probability in zip(best.indices.tolist(), best.values.tolist(), strict=True)
    ]


def main() -> None:
    """Read the command line, classify, and print a line a file."""
    with errors_in_one_line():
        settings = parse_command_line(PredictConfig)
        for file, (name, probability) in zip(settings.files, predict(settings), strict=True):
            print(f"{file}: {name} ({probability:.1%})")


if __name__ == "__main__":
    main()
