"""Two classes of layers that not every step uses, tied weights, and a frozen one."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, linear

from .batches.means import exact_mean
from .config import TrainConfig

ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")


class Network(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.frozen = nn.Linear(64, 32).requires_grad_(False)
        self.first, self.second = nn.Linear(32, 32), nn.Linear(32, 32, bias=False)
        # The same weights, transposed, in another place.
        self.second.weight = self.first.weight
        self.branch = nn.Sequential(nn.Linear(32, 32), nn.BatchNorm1d(32))
        self.never = nn.Linear(32, 32)
        self.head = nn.Linear(32, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.tanh(self.frozen(x.flatten(1)))
        x = torch.tanh(linear(torch.tanh(self.first(x)), self.second.weight.T))
        # About half of the micro-batches, so that a rank may use it where another does not.
        if not self.training or float(x.detach().sum()) > -3.6:
            x = x + self.branch(x)
        return self.head(x)


SHARD_UNITS: tuple[type[nn.Module], ...] = ()


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    return Network(len(info["classes"]))


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    images, targets = batch
    return cross_entropy(model(images), targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    images, targets = batch
    logits = model(images)
    prediction = logits.argmax(dim=1)
    return {
        "loss": cross_entropy(logits, targets, reduction="none"),
        "prediction": prediction,
        "correct": prediction == targets,
    }


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
