"""The model, its loss, and what is scored: replace this file, with `data.py`, by your own.

Nothing here knows devices, ranks or strategies. What the programs need of this file: `make_model`,
`compute_loss`, `ITEMS`, `score`, `summarize`, `BEST_RESULT` and `SHARD_UNITS`; `export` also needs
`example_inputs`.
"""

import math
from typing import Literal

import torch
from sklearn.metrics import f1_score, roc_auc_score
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, mse_loss

from .batches.means import exact_mean
from .config import TrainConfig
from .data import DataInfo

WIDTH, DEPTH, DROPOUT, EMBEDDING_SIZE = 128, 2, 0.3, 8


class Block(nn.Module):
    """Pre-activation residual block, (batch, width) to the same shape.

    Source: Gorishniy et al., Revisiting Deep Learning Models for Tabular Data, 2021, section 3.2,
    with LayerNorm for BatchNorm and SiLU for ReLU.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        expand, contract = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        norm, dropout = nn.LayerNorm(width), nn.Dropout(DROPOUT)
        self.layers = nn.Sequential(norm, expand, nn.SiLU(), dropout, contract)

    def forward(self, x: Tensor) -> Tensor:
        residual: Tensor = self.layers(x)
        return x + residual


class TableModel(nn.Module):
    """Numbers (batch, n) and categories (batch, m) to (batch, classes or 1): a residual MLP."""

    def __init__(self, info: DataInfo) -> None:
        super().__init__()
        vocabularies = info["categories"].values()
        if vocabularies:
            # Row 0 is for missing and unknown categories, and stays zero if training has none.
            self.embedding = nn.Embedding(1 + sum(map(len, vocabularies)), EMBEDDING_SIZE)
            nn.init.zeros_(self.embedding.weight[0].detach())
        num_inputs = len(info["numbers"]) + len(info["missing"])
        self.stem = nn.Linear(num_inputs + EMBEDDING_SIZE * len(vocabularies), WIDTH)
        self.blocks = nn.Sequential(*(Block(WIDTH) for _ in range(DEPTH)))
        last = nn.Linear(WIDTH, len(info["classes"] or [1]))
        self.head = nn.Sequential(nn.LayerNorm(WIDTH), nn.SiLU(), last)

    def forward(self, numbers: Tensor, categories: Tensor | None = None) -> Tensor:
        if categories is not None:
            numbers = torch.cat([numbers, self.embedding(categories).flatten(start_dim=1)], dim=1)
        output: Tensor = self.head(self.blocks(self.stem(numbers)))
        return output


SHARD_UNITS = (Block,)
"""Modules that FSDP2 shards and gathers as a unit: the repeated blocks."""

ITEMS = "samples"
"""What the loss is a mean over, and the log counts per second: samples, tokens, pixels."""

BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")
"""Which result of the validation is best: its checkpoint is kept, and `patience` counts by it."""


def make_model(config: TrainConfig, info: DataInfo) -> nn.Module:
    """Return a new model, on the CPU; its weights follow from torch's seed."""
    return TableModel(info)


def example_inputs(config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    """Return inputs of the model's forward, for a batch of 2."""
    numbers = torch.randn(2, len(info["numbers"]) + len(info["missing"]))
    categories = torch.zeros(2, len(info["categories"]), dtype=torch.int64)
    return (numbers, categories) if info["categories"] else (numbers,)


def compute_loss(model: nn.Module, batch: tuple[Tensor, ...]) -> tuple[Tensor, int]:
    """Return the sum of the losses of a batch, a scalar, and the number of items it is over."""
    losses = score(model, batch)["loss"]
    return losses.sum(), len(losses)


def score(model: nn.Module, batch: tuple[Tensor, ...]) -> dict[str, Tensor]:
    """Return what an evaluation keeps of each sample of a batch; each (batch, ...), any dtype."""
    *inputs, target = batch
    outputs = model(*inputs).float()
    if target.is_floating_point():
        prediction, (target, unit) = outputs.squeeze(1), target.unbind(dim=1)
        loss = mse_loss(prediction, target, reduction="none")
        return {"loss": loss, "prediction": prediction, "target": target, "unit": unit}
    loss = cross_entropy(outputs, target, reduction="none")
    return {"loss": loss, "probabilities": outputs.softmax(dim=1), "target": target}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the results of a split from the scores of all its samples, in their order."""
    loss, target = exact_mean(scores["loss"]), scores["target"]
    if "prediction" in scores:
        errors = (scores["prediction"] - target).abs() * scores["unit"]
        variance = exact_mean((target.double() - exact_mean(target)) ** 2)
        r2 = 1 - loss / variance if variance else math.nan
        return {"loss": loss, "mae": exact_mean(errors), "r2": r2}
    probabilities, predicted = scores["probabilities"], scores["probabilities"].argmax(dim=1)
    average = "binary" if probabilities.shape[1] == 2 else "macro"
    f1 = float(f1_score(target, predicted, average=average, zero_division=0.0))
    accuracy, auc = exact_mean(predicted == target), area_under_roc(probabilities, target)
    return {"loss": loss, "accuracy": accuracy, "auc": auc, "f1": f1}


def area_under_roc(probabilities: Tensor, target: Tensor) -> float:
    """Return the area of the second of two classes, or the mean of each against the others."""
    num_classes, areas = probabilities.shape[1], []
    for index in [1] if num_classes == 2 else range(num_classes):
        is_class = target == index  # A small split may lack it, or have no other.
        if is_class.any() and not is_class.all() and probabilities.isfinite().all():
            areas.append(float(roc_auc_score(is_class, probabilities[:, index])))
    return sum(areas) / len(areas) if areas else math.nan
