"""Predicts boxes; the loss is over boxes, whose number differs from picture to picture."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import smooth_l1_loss

from .config import TrainConfig
from .data import Pictures

ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")


class Detector(nn.Module):
    """Returns losses in training mode only, as the models of torchvision do."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most = most
        self.layers = nn.Sequential(nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 4 * most))

    def forward(self, pictures: Tensor, boxes: Tensor, num_boxes: Tensor) -> dict[str, Tensor]:
        found = self.layers(pictures.flatten(1)).view(-1, self.most, 4)
        if not self.training:
            return {"boxes": found}
        return {"loss": losses_of(found, boxes, num_boxes).sum()}


def losses_of(found: Tensor, boxes: Tensor, num_boxes: Tensor) -> Tensor:
    losses = smooth_l1_loss(found, boxes, reduction="none").sum(dim=2)
    places = torch.arange(losses.shape[1], device=losses.device)
    return losses * (places < num_boxes[:, None])


SHARD_UNITS: tuple[type[nn.Module], ...] = ()


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    return Detector(info["most"])


def compute_loss(model: nn.Module, batch: Pictures) -> tuple[Tensor, Tensor]:
    losses = model(batch.pixels, batch.boxes, batch.num_boxes)
    return losses["loss"], batch.num_boxes.sum()


def score(model: nn.Module, batch: Pictures) -> dict[str, Tensor]:
    boxes = model(batch.pixels, batch.boxes, batch.num_boxes)["boxes"]
    losses = losses_of(boxes, batch.boxes, batch.num_boxes)
    return {"losses": losses, "boxes": boxes, "num_boxes": batch.num_boxes}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    total = int(scores["num_boxes"].sum())
    mean = scores["boxes"].double().mean().item()
    return {"loss": math.fsum(scores["losses"].flatten().tolist()) / total, "mean_corner": mean}
