"""A character model; its loss is a sum over tokens, whose number differs from batch to batch."""

import math
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .config import TrainConfig
from .data import IGNORED

ITEMS = "tokens"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("perplexity", "lowest")


class Model(nn.Module):
    def __init__(self, num_characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(num_characters, 24)
        self.blocks = nn.ModuleList([nn.Linear(24, 24)])
        self.dropout = nn.Dropout(0.1)
        self.head = nn.Linear(24, num_characters)

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.embedding(inputs)
        for block in self.blocks:
            x = x + torch.tanh(block(x))
        return self.head(self.dropout(x))


SHARD_UNITS: tuple[type[nn.Module], ...] = ()


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    return Model(len(info["characters"]))


def _losses(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    logits = model(inputs=batch["inputs"]).float()
    targets = batch["targets"]
    losses = cross_entropy(logits.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return losses, targets != IGNORED


def compute_loss(model: nn.Module, batch: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    losses, is_token = _losses(model, batch)
    return losses.sum(), is_token.sum()


def score(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    losses, is_token = _losses(model, batch)
    return {"loss": losses.sum(dim=1).double(), "tokens": is_token.sum(dim=1)}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    loss = math.fsum(scores["loss"].tolist()) / int(scores["tokens"].sum())
    return {"loss": loss, "perplexity": math.exp(loss)}
