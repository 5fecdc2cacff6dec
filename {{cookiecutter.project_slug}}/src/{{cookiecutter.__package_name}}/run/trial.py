"""A trial before training: one micro-batch through the user's files, with errors that name them."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..batches.evaluation import Score, Summarize, as_numbers, check_rows, check_same_rows
from ..batches.loaders import Collate, MapDataset
from ..batches.sampling import sample_order
from ..batches.seeds import seed_all
from ..exact.own_state import changed_state, own_state, state_restored
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .call_order import calls_noted
from .contract import ComputeLoss, check_loss, check_results, check_sum
from .flop_counter import FlopCounter
from .model_checks import (
    CalledOnly,
    backward_refused,
    check_gradients,
    check_layers,
    check_names,
    put_in_training_mode,
)
from .passes import part_of_one_pass
from .trial_size import NUM_SCORED, all_cores, num_tried
from .users_code import call_users, errors_named, read_batch


@dataclass(frozen=True)
class Trial:
    """What the trial found out about the model."""

    without_gradient: list[str]
    """Parameters that got no gradient: frozen ones are not among them."""

    changed_state: list[str]
    """Weights, buffers and attributes that a forward pass changes, but for those of BatchNorm.

    Or, as a sentence, that the loss is another one when it is computed again.
    """

    items_per_sample: int | None
    """Items that the loss of one sample is over; None if their number varies."""

    flops_per_sample: float
    """FLOPs of matrix products, convolutions and attention, forward and backward."""

    part_of_one_pass: float | None = None
    """For `--plan`: the time of a global batch in one pass, over that in micro-batches."""

    were_evaluating: tuple[str, ...] = ()
    """Modules that `make_model` left in evaluation mode, and training puts in training mode."""

    has_second_derivative: bool = False
    """Whether the loss has a gradient in it."""

    calls: Sequence[str] = ()
    """What `calls_noted` noted."""


def try_out(
    train_set: MapDataset,
    validation_set: MapDataset,
    collate: Collate,
    config: RunConfig,
    model: nn.Module,
    compute_loss: ComputeLoss,
) -> Trial:
    """Compute loss and gradients of one micro-batch on the CPU; restore buffers and attributes.

    It has 64 samples at most, and two of a large model.

    Raises:
        SettingError: a function of the user's files fails, or does not return what it should.
    """
    check_layers(model)
    were_evaluating, called = put_in_training_mode(model), CalledOnly(model)
    order = sample_order(len(train_set), config.seed, epoch=0)
    samples = order[: num_tried(model, config.micro_batch_size)].tolist()
    names = model.state_dict().keys()
    compute = partial(_computed, compute_loss, called, collate, train_set, samples)
    counter, before, calls = FlopCounter(), own_state(model), list[str]()
    with state_restored(model), all_cores(model):
        with counter, calls_noted(model, calls.append):
            with backward_refused(model):
                result = compute()
            loss, items_per_sample = check_loss(result, len(samples))
            with errors_named("model.py", "the backward pass of compute_loss"):
                torch.autograd.backward(loss)
        check_names(names, model)
        changed = changed_state(model, before, compute)
        if not changed and not torch.allclose(compute()[0], loss, 1e-6, 0.0, equal_nan=True):
            changed = ["the loss of the same batch, by something outside of the model"]
    without = check_gradients({n: p for n, p in model.named_parameters() if p.requires_grad})
    flops_per_sample = counter.get_total_flops() / len(samples)
    part = None
    if config.plan_only:
        with state_restored(model):
            part = part_of_one_pass(
                train_set, collate, config, model, compute_loss, flops_per_sample
            )
    model.zero_grad()
    _check_sum(compute_loss, called, collate, validation_set, train_set, samples)
    found = (without, changed, items_per_sample, flops_per_sample, part, were_evaluating)
    return Trial(*found, called.has_second_derivative, calls)


def _check_sum(
    compute_loss: ComputeLoss,
    model: nn.Module,
    collate: Collate,
    validation_set: MapDataset,
    train_set: MapDataset,
    samples: list[int],
) -> None:
    measure = partial(_computed, compute_loss, model, collate)
    some = list(range(min((len(samples) + 1) // 2, len(validation_set))))
    with _evaluating(model), all_cores(model):
        # Without augmentation and dropout.
        is_checked = check_sum(partial(measure, validation_set), some)
        model.train()
        if not is_checked:  # A loss of training samples only, or of micro-batches of one size.
            check_sum(partial(measure, train_set), samples)


@torch.enable_grad()  # A loss may have gradients in it.
def _computed(
    compute_loss: ComputeLoss,
    model: nn.Module,
    collate: Collate,
    dataset: MapDataset,
    samples: list[int],
    seed: int = 0,
) -> Any:
    """Return what `compute_loss` returns, with the same random numbers for the same seed."""
    batch = read_batch(dataset, collate, samples, seed)
    seed_all(seed)
    with sdpa_kernel(SDPBackend.MATH):  # FLOPs of no other kernel are counted on a CPU.
        return call_users("compute_loss", compute_loss, model, batch)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    model.eval()
    with torch.no_grad(), state_restored(model):
        yield
    model.train()


def try_out_scores(
    validation_set: MapDataset,
    collate: Collate,
    model: nn.Module,
    score: Score,
    summarize: Summarize,
    best_result: tuple[str, str],
) -> None:
    """Score some samples of the validation split on the CPU; summarize them, if they are many.

    Few samples, as of a large model, may be too few to summarize: of one class, for example.

    Raises:
        SettingError: a function of the user's files fails, or does not return what it should.
    """
    called, num_scored = CalledOnly(model), num_tried(model, NUM_SCORED)
    stride = max(1, len(validation_set) // num_scored)
    samples = list(range(0, len(validation_set), stride))[:num_scored]
    with _evaluating(model), all_cores(model):
        # The last batch of an evaluation may have one sample.
        rows, one = (
            call_users("score", score, called, read_batch(validation_set, collate, some))
            for some in (samples, samples[:1])
        )
    if not isinstance(rows, Mapping):
        raise SettingError(
            f"model.py: score returned a {type(rows).__name__}; return a dictionary of tensors "
            "with one row per sample"
        )
    for name, values in rows.items():
        check_rows(name, values, len(samples))
        check_rows(name, one.get(name), 1)
        check_same_rows(name, values, one[name])
    if num_scored < NUM_SCORED:
        return
    check_results(as_numbers(call_users("summarize", summarize, dict(rows))), best_result)
