"""A pretrained network with a new head; its first layers are frozen, BatchNorm included."""

from typing import Any, Literal, Self

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .batches.means import exact_mean
from .config import TrainConfig

ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")


class Frozen(nn.Module):
    """Layers that do not learn, and whose running statistics stay as they are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16)
        for parameter in self.parameters():
            parameter.requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        return super().train(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x)).relu()


class Network(nn.Module):
    def __init__(self, num_classes: int) -> None:
        super().__init__()
        self.frozen = Frozen()
        self.tuned = nn.Sequential(nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Sequential(nn.Dropout(0.1), nn.Linear(16, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.tuned(self.frozen(images)).mean(dim=(2, 3)))


SHARD_UNITS: tuple[type[nn.Module], ...] = ()


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    model = Network(len(info["classes"]))
    pretrained = torch.Generator().manual_seed(7)
    for part in (model.frozen, model.tuned):
        for tensor in part.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=pretrained) * 0.2 + 0.01)
    return model


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    images, targets = batch
    return cross_entropy(model(images), targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    images, targets = batch
    logits = model(images)
    prediction = logits.argmax(dim=1)
    loss = cross_entropy(logits, targets, reduction="none")
    return {"loss": loss, "correct": prediction == targets, "prediction": prediction}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
