"""The model and its loss: replace this file, together with `data.py`, by your own.

Nothing here knows of devices, ranks or strategies. Layers whose result depends on how a batch is
split (BatchNorm) would break "one result on any placement": use GroupNorm, LayerNorm or RMSNorm.
"""

from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from .data import CLASS_NAMES

METRICS = ("loss", "accuracy")
"""The results of `per_sample_results` whose means are reported."""


class Block(nn.Module):
    """Pre-activation residual block, (batch, channels, height, width) to the same shape.

    Source: He et al., Identity Mappings in Deep Residual Networks, 2016, figure 4(e), with
    GroupNorm (Wu and He, 2018) for BatchNorm and SiLU for ReLU.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(width // 8, width)
        self.conv1 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)
        self.norm2 = nn.GroupNorm(width // 8, width)
        self.conv2 = nn.Conv2d(width, width, kernel_size=3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.conv1(nn.functional.silu(self.norm1(x)))
        residual: Tensor = self.conv2(nn.functional.silu(self.norm2(hidden)))
        return x + residual


class Classifier(nn.Module):
    """Images (batch, 1, 8, 8) to logits (batch, 10): two stages of residual blocks, pooled."""

    def __init__(self, width: int = 32, dropout: float = 0.1) -> None:
        super().__init__()
        self.stem = nn.Conv2d(1, width, kernel_size=3, padding=1)
        self.blocks = nn.ModuleList([Block(width), Block(2 * width)])
        self.downsample = nn.Conv2d(width, 2 * width, kernel_size=2, stride=2)
        self.norm = nn.GroupNorm(width // 4, 2 * width)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(2 * width, len(CLASS_NAMES))

    def forward(self, images: Tensor) -> Tensor:
        x = self.blocks[0](self.stem(images))
        x = self.blocks[1](self.downsample(x))
        pooled = nn.functional.silu(self.norm(x)).mean(dim=(2, 3))
        logits: Tensor = self.head(self.dropout(pooled))
        return logits


def loss_function(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of a batch, a scalar: logits (batch, 10), targets (batch,) int64."""
    return cross_entropy(logits, targets)


def per_sample_results(logits: Tensor, targets: Tensor) -> dict[str, Tensor]:
    """Return, for each sample of a batch, what an evaluation reports; each (batch,) float32.

    The means of `METRICS` are reported; "prediction", a class, is for the picture.
    """
    prediction = logits.argmax(dim=1)
    return {
        "loss": cross_entropy(logits.float(), targets, reduction="none"),
        "accuracy": (prediction == targets).float(),
        "prediction": prediction.float(),
    }
