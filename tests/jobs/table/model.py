"""A small network for a table; AUC and F1 are of the whole split, no means over samples."""

from typing import Any, Literal

import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from .config import TrainConfig

ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("auc", "highest")
SHARD_UNITS: tuple[type[nn.Module], ...] = ()


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    return nn.Sequential(
        nn.Linear(len(info["mean"]), 32), nn.LayerNorm(32), nn.ReLU(), nn.Linear(32, 1)
    )


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    inputs, targets = batch
    logits = model(inputs).squeeze(1)
    return binary_cross_entropy_with_logits(logits, targets.float(), reduction="sum"), len(targets)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    inputs, targets = batch
    logits = model(inputs).squeeze(1)
    losses = binary_cross_entropy_with_logits(logits, targets.float(), reduction="none")
    return {"loss": losses, "probability": torch.sigmoid(logits.double()), "target": targets}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    targets, probabilities = scores["target"].numpy(), scores["probability"].numpy()
    return {
        "auc": float(roc_auc_score(targets, probabilities)),
        "f1": float(f1_score(targets, probabilities > 0.5)),
    }
