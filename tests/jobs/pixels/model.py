"""A class for each pixel of the digits, ink or not, in channels_last; mean IoU of the split."""

from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .batches.means import exact_mean
from .config import TrainConfig

ITEMS = "pixels"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("mean_iou", "highest")


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.conv = nn.GroupNorm(2, 8), nn.Conv2d(8, 8, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.relu(self.conv(self.norm(x)))


SHARD_UNITS = (Block,)


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    model = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), Block(), Block(), nn.Conv2d(8, 1, 1))
    return model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def _targets(images: Tensor) -> Tensor:
    return (images > 0.5).float()


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor]:
    images, _ = batch
    targets = _targets(images)
    losses = binary_cross_entropy_with_logits(model(images), targets, reduction="sum")
    return losses, torch.tensor(targets.numel(), device=targets.device)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    images, _ = batch
    logits, targets = model(images), _targets(images)
    losses = binary_cross_entropy_with_logits(logits, targets, reduction="none")
    both = torch.stack([logits > 0, targets > 0], dim=1)
    return {"loss": losses.mean(dim=(1, 2, 3)), "masks": both}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    predicted, true = scores["masks"].unbind(dim=1)
    ious = []
    for value in (True, False):
        union = int(((predicted == value) | (true == value)).sum())
        ious.append(int(((predicted == value) & (true == value)).sum()) / union)
    return {"loss": exact_mean(scores["loss"]), "mean_iou": sum(ious) / 2}
