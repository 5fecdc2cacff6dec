"""What both jobs of classification have in their `data.py` and `model.py`."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .batches.means import exact_mean
from .config import TrainConfig

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]
ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")
collate = None


def prepare(config: TrainConfig) -> None:
    """Do nothing."""


def describe(config: TrainConfig) -> DataInfo:
    """Return nothing that the model must know."""
    return {}


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    """Return the sum of the losses of a batch, and the number of samples."""
    inputs, targets = batch
    return cross_entropy(model(inputs).float(), targets, reduction="sum"), len(targets)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    """Return the loss of each sample of a batch, and whether its class is right."""
    inputs, targets = batch
    logits = model(inputs).float()
    losses = cross_entropy(logits, targets, reduction="none")
    return {"loss": losses, "correct": logits.argmax(dim=1) == targets}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    """Return the results of a split."""
    return {"loss": exact_mean(scores["loss"]), "accuracy": exact_mean(scores["correct"])}
