"""A small residual network with BatchNorm, as pretrained ones have it."""

from typing import Any, Literal

from torch import Tensor, nn
from torch.nn.functional import cross_entropy, relu

from .batches.means import exact_mean
from .config import TrainConfig

ITEMS = "samples"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("accuracy", "highest")


class Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)

    def forward(self, x: Tensor) -> Tensor:
        return relu(x + self.norm2(self.conv2(relu(self.norm1(self.conv1(x))))))


class Network(nn.Module):
    def __init__(self, channels: int, num_classes: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(channels, 16, 3, padding=1), nn.BatchNorm2d(16, momentum=0.3)
        )
        self.blocks = nn.ModuleList([Block(16), Block(16)])
        self.head = nn.Linear(16, num_classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean(dim=(2, 3)))


SHARD_UNITS = (Block,)


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    return Network(info["channels"], len(info["classes"]))


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
