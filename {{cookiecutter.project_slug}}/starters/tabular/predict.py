"""Use a trained model: predict the target of each row of tables."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro

from .config import TrainConfig
from .data import encode, read_table
from .model import make_model
from .run.trained import TrainedRun
from .settings.command_line import parse_command_line
from .settings.errors import SettingError, check_printed, errors_in_one_line


@dataclass(frozen=True, kw_only=True)
class PredictConfig(TrainedRun):
    """Predict the target of each row of tables with the trained model of a run folder."""

    json: bool = False
    """Print a JSON object per row instead of text, with the probability of each class."""

    files: tyro.conf.Positional[tuple[Path, ...]]
    """Tables, .csv or .parquet, with the columns of the training data; others are ignored."""


@torch.inference_mode()
def predict(settings: PredictConfig) -> list[dict[str, Any]]:
    """Return file, row (from 1) and prediction of each row; of classes also their probabilities."""
    if not settings.files:
        raise SettingError("no table to predict from; add .csv or .parquet files after the flags")
    _, info, model = settings.load(TrainConfig, make_model)
    classes, scale = info["classes"], info["target"]
    rows: list[dict[str, Any]] = []
    for file in settings.files:
        outputs = model(*encode(read_table(file), info, source=file)).double()
        results = outputs.softmax(dim=1) if classes else outputs * scale["std"] + scale["mean"]
        for number, values in enumerate(results.tolist(), start=1):
            prediction = classes[values.index(max(values))] if classes else values[0]
            rows.append({"file": str(file), "row": number, "prediction": prediction})
            if classes:
                rows[-1]["probabilities"] = dict(zip(classes, values, strict=True))
    return rows


def main() -> None:
    """Print a line for each row."""
    with errors_in_one_line():
        settings = parse_command_line(PredictConfig)
        for row in predict(settings):
            result, chances = row["prediction"], row.get("probabilities")
            shown = f"{result} ({chances[result]:.1%})" if chances else f"{result:.6g}"
            text = f"{row['file']} row {row['row']}: {shown}"
            print(json.dumps(row) if settings.json else text)
        check_printed()


if __name__ == "__main__":
    main()
