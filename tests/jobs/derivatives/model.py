"""Complex weights, and a loss with the derivative of the output by the input; called twice."""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from .batches.means import exact_mean
from .config import TrainConfig

ITEMS = "functions"
BEST_RESULT: tuple[str, Literal["lowest", "highest"]] = ("loss", "lowest")


class Spectral(nn.Module):
    """Multiplies the Fourier coefficients of functions, (batch, points), by weights."""

    def __init__(self, num_points: int) -> None:
        super().__init__()
        size = num_points // 2 + 1
        self.weights = nn.Parameter(torch.randn(size, dtype=torch.cfloat))
        self.offsets = nn.Parameter(torch.zeros(size, dtype=torch.cfloat))

    def forward(self, functions: Tensor) -> Tensor:
        spectrum = torch.fft.rfft(functions) * self.weights + self.offsets
        return functions + torch.tanh(torch.fft.irfft(spectrum, n=functions.shape[1]))


SHARD_UNITS = (Spectral,)


def make_model(config: TrainConfig, info: dict[str, Any]) -> nn.Module:
    size = info["num_points"]
    return nn.Sequential(Spectral(size), Spectral(size), nn.Linear(size, size))


def compute_loss(model: nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
    inputs, targets = batch
    inputs = inputs.requires_grad_()
    outputs = model(inputs)
    [slopes] = torch.autograd.grad(outputs.sum(), inputs, create_graph=True)
    noisy = model(inputs.detach() + 0.1 * torch.randn_like(inputs))
    loss = (outputs - targets).square().sum() + (noisy - targets).square().sum()
    return loss + 0.1 * slopes.square().sum(), len(inputs)


def score(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    inputs, targets = batch
    return {"loss": (model(inputs) - targets).square().sum(dim=1)}


def summarize(scores: dict[str, Tensor]) -> dict[str, float]:
    return {"loss": exact_mean(scores["loss"])}
