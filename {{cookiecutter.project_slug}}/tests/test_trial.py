"""What is wrong in the user's files is one line before training, which names file and function."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from my_run import data, model
from my_run.config import TrainConfig
from my_run.run.trial import (
    Trial,
    try_out,
    try_out_scores,
)
from my_run.settings.errors import SettingError

from .launching import load

CONFIG = TrainConfig()


def make() -> nn.Module:
    torch.manual_seed(0)
    return model.make_model(CONFIG, data.describe(CONFIG))


def trial_of(
    compute_loss: Any = model.compute_loss,
    network: nn.Module | None = None,
    train_set: Any = None,
    collate: Any = None,
) -> Trial:
    validation_set = load("validation")
    network = network or make()
    return try_out(
        train_set if train_set is not None else load("train", augmented=True),
        validation_set,
        collate,
        CONFIG,
        network,
        compute_loss,
    )


def loss_of(network: nn.Module, batch: Any) -> Tensor:
    loss, _ = model.compute_loss(network, batch)
    return loss


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return iter(())


def broken_collate(samples: Any) -> Any:
    raise KeyError("label")


def test_the_starter_passes_and_its_model_is_as_before() -> None:
    network = make()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    assert trial_of(network=network) == Trial([], [])
    try_out_scores(
        load("validation"), None, network, model.score, model.summarize, model.BEST_RESULT
    )

    assert network.training
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())


@pytest.mark.parametrize(
    ("compute_loss", "reason"),
    [
        (lambda m, b: loss_of(m, b), r"returned a Tensor; return the sum of the losses and"),
        (lambda m, b: (loss_of(m, b) / len(b[1]), len(b[1])), r"returned a mean; return the sum"),
        (lambda m, b: (m(b[0]), len(b[1])), r"returned \(8, 10\) as the loss; return a scalar"),
        (lambda m, b: (loss_of(m, b), 3), r"returned 3 as the number of items of 8 samples"),
        (lambda m, b: (loss_of(m, b).detach(), 8), r"backward pass of compute_loss failed"),
        (lambda m, b: b["images"], r"test_trial\.py|model\.py: compute_loss failed .*TypeError"),
    ],
)
def test_a_loss_that_is_wrong_is_named(compute_loss: Callable[..., Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason) as error:
        trial_of(compute_loss)
    assert "\n" not in str(error.value)


def test_data_that_is_wrong_is_named() -> None:
    with pytest.raises(SettingError, match=r"data\.py: load_split returned a Stream for train"):
        trial_of(train_set=Stream())
    with pytest.raises(SettingError, match=r"data\.py: load_split returned no samples for train"):
        trial_of(train_set=[])
    pairs = [(torch.zeros(1, 8, 8), torch.tensor(index % 10)) for index in range(20)]
    with pytest.raises(SettingError, match=r"reading a batch .* failed .*KeyError: 'label'"):
        trial_of(train_set=pairs, collate=broken_collate)
    labels = [(torch.zeros(1, 8, 8), torch.tensor(10 + index)) for index in range(20)]
    with pytest.raises(SettingError, match=r"model\.py, line \d+: compute_loss failed .*IndexErr"):
        trial_of(train_set=labels)


@pytest.mark.parametrize(
    ("score", "summarize", "best", "reason"),
    [
        (lambda m, b: m(b[0]), None, None, "score returned a Tensor; return a dictionary"),
        (lambda m, b: {"a": m(b[0]).mean()}, None, None, r"score returned \(\) as 'a' for a batch"),
        (None, lambda scores: 3.0, None, "summarize must return a dictionary of numbers"),
        (None, lambda scores: {"a": scores["loss"]}, None, "summarize must return a dictionary"),
        (None, None, ("auc", "highest"), r"BEST_RESULT is .*name one of loss, accuracy"),
        (None, None, ("loss", "low"), r"BEST_RESULT is .*\"lowest\" or \"highest\""),
    ],
)
def test_scores_that_are_wrong_are_named(
    score: Any, summarize: Any, best: Any, reason: str
) -> None:
    arguments = (score or model.score, summarize or model.summarize, best or model.BEST_RESULT)
    with pytest.raises(SettingError, match=reason):
        try_out_scores(load("validation"), None, make(), *arguments)


class Unusual(nn.Module):
    """With a parameter that is not used, a frozen one, and a buffer that each pass changes."""

    def __init__(self) -> None:
        super().__init__()
        self.flat, self.idle = nn.Linear(64, 10), nn.Linear(2, 2)
        self.frozen = nn.Parameter(torch.ones(1), requires_grad=False)
        self.norm: nn.Module = nn.BatchNorm1d(64)
        self.calls: Tensor
        self.register_buffer("calls", torch.zeros(1))

    def forward(self, images: Tensor) -> Tensor:
        self.calls += 1
        logits: Tensor = self.flat(self.norm(images.flatten(1))) * self.frozen
        return logits


def test_what_is_unusual_in_a_model_is_found() -> None:
    network = Unusual()
    assert trial_of(network=network) == Trial(["idle.weight", "idle.bias"], ["calls"])
    assert network.state_dict()["norm.num_batches_tracked"] == network.calls == 0
    with pytest.raises(SettingError, match="norm is a SyncBatchNorm"):
        network.norm = nn.SyncBatchNorm(64)
        trial_of(network=network)
    network.norm = nn.BatchNorm1d(64, momentum=None)
    with pytest.raises(SettingError, match="norm is a BatchNorm with momentum None; use a number"):
        trial_of(network=network)
