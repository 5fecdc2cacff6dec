"""A regression whose model computes its loss itself and returns an object, as Hugging Face's do."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from .batches.means import exact_mean
from .config import TrainConfig

ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("r2", "highest")


@dataclass
class Output:
    loss: Tensor
    logits: Tensor


class Model(nn.Module):
    def __init__(self, mean: list[float], width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean))
        self.layers = nn.Sequential(nn.Linear(6, width), nn.Tanh(), nn.Linear(width, 1))

    def forward(self, inputs: dict[str, Tensor], labels: Tensor) -> Output:
        logits = self.layers(inputs["x"] - self.mean).squeeze(1)
        return Output(loss=(logits - labels).square().mean(), logits=logits)


SHARD_UNITS: tuple[type[nn.Module], ...] = ()


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    return Model(info["mean"], config.width)


def compute_loss(model: nn.Module, batch: dict[str, Any]) -> tuple[Tensor, int]:
    output = model(inputs=batch["inputs"], labels=batch["labels"])
    return output.loss * len(batch["labels"]), len(batch["labels"])


def score(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    output = model(inputs=batch["inputs"], labels=batch["labels"])
    pairs = torch.stack([output.logits, batch["labels"]], dim=1)
    return {"pairs": pairs, "loss": (output.logits - batch["labels"]).square()}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    predictions, labels = scores["pairs"].double().unbind(dim=1)
    spread = (labels - labels.mean()).square().sum()
    r2 = 1 - float((predictions - labels).square().sum() / spread)
    return {"loss": exact_mean(scores["loss"]), "r2": r2}
