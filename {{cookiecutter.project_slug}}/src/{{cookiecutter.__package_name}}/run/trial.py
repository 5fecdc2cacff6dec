"""A trial before training: one micro-batch through the user's files, with errors that name them."""

from collections.abc import Callable, Iterator, Mapping, Sized
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ..batches.evaluation import Score, Summarize, check_rows
from ..batches.loaders import Collate, MapDataset
from ..batches.sampling import sample_order
from ..batches.seeds import seed_torch
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .users_code import call_users, errors_named, read_batch

NUM_SCORED = 64
ComputeLoss = Callable[[nn.Module, Any], tuple[Tensor, int | Tensor]]


@dataclass(frozen=True)
class Trial:
    """What the trial found out about the model."""

    without_gradient: list[str]
    """Parameters that got no gradient: frozen ones are not among them."""

    changed_buffers: list[str]
    """Buffers that a forward pass changes, other than those of BatchNorm."""


def try_out(
    train_set: MapDataset,
    validation_set: MapDataset,
    collate: Collate,
    config: RunConfig,
    model: nn.Module,
    compute_loss: ComputeLoss,
) -> Trial:
    """Compute loss and gradients of one micro-batch on the CPU, and leave the model as it was.

    Raises:
        SettingError: a function of the user's files fails, or does not return what it should.
    """
    for split, dataset in {"train": train_set, "validation": validation_set}.items():
        _check_set(split, dataset)
    _check_layers(model)
    order = sample_order(len(train_set), config.seed, epoch=0)
    samples = order[: config.micro_batch_size].tolist()
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    batch = read_batch(train_set, collate, samples)
    seed_torch(0)
    seed_torch(0)
    loss = _check_loss(call_users("compute_loss", compute_loss, model, batch), len(samples))
    with errors_named("model.py", "the backward pass of compute_loss"):
        torch.autograd.backward(loss)
    trainable = {name: p for name, p in model.named_parameters() if p.requires_grad}
    without = [name for name, parameter in trainable.items() if parameter.grad is None]
    if len(without) == len(trainable):
        raise SettingError(
            "model.py: compute_loss gives no parameter a gradient; do not detach its result"
        )
    changed = _restore_buffers(model, before)
    model.zero_grad()
    with _evaluating(model):
        _check_sum(compute_loss, model, validation_set, collate, config.micro_batch_size)
    return Trial(without, changed)


def _check_set(split: str, dataset: Any) -> None:
    if isinstance(dataset, IterableDataset) or not (
        isinstance(dataset, Sized)
        and (hasattr(dataset, "__getitem__") or hasattr(dataset, "__getitems__"))
    ):
        raise SettingError(
            f"data.py: load_split returned a {type(dataset).__name__} for {split}, which has no "
            "length or no access by index; return a map-style data set, such as an index over "
            "shards or a memory-mapped file"
        )
    if not len(dataset):
        raise SettingError(f"data.py: load_split returned no samples for {split}")


def _check_layers(model: nn.Module) -> None:
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise SettingError(
                f"model.py: {name} is a SyncBatchNorm, whose result depends on the number of "
                "processes; use BatchNorm, whose running statistics are kept alike on all ranks"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            raise SettingError(
                f"model.py: {name} is a BatchNorm with momentum None; use a number, such as 0.1"
            )


def _check_loss(result: Any, num_samples: int) -> Tensor:
    """Return the loss of what compute_loss returned."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise SettingError(
            f"model.py: compute_loss returned a {type(result).__name__}; return the sum of the "
            "losses and the number of items that it is over, (loss, items)"
        )
    loss, items = result
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise SettingError(f"model.py: compute_loss returned {found} as the loss; return a scalar")
    is_count = isinstance(items, Tensor) and items.numel() == 1
    if not is_count and items != num_samples:
        raise SettingError(
            f"model.py: compute_loss returned {items} as the number of items of {num_samples} "
            "samples; return their number, or a scalar tensor if it varies"
        )
    return loss


def _check_sum(
    compute_loss: ComputeLoss, model: nn.Module, dataset: MapDataset, collate: Collate, size: int
) -> None:
    """Check that the loss of samples that are there twice is twice their loss."""
    samples = list(range(min(size, len(dataset))))
    batches = [read_batch(dataset, collate, some) for some in (samples, 2 * samples)]
    (once, items), (twice, more) = (
        call_users("compute_loss", compute_loss, model, batch) for batch in batches
    )
    is_mean = abs(float(twice) - float(once)) < 1e-3 * abs(float(once))
    if is_mean and float(more) == 2 * float(items):
        raise SettingError(
            "model.py: compute_loss returned a mean; return the sum of the losses, such as "
            'cross_entropy(..., reduction="sum"), and the number of items that it is over'
        )


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    before = {name: buffer.clone() for name, buffer in model.named_buffers()}
    model.eval()
    with torch.no_grad():
        yield
    model.train()
    _restore_buffers(model, before)


def try_out_scores(
    validation_set: MapDataset,
    collate: Collate,
    model: nn.Module,
    score: Score,
    summarize: Summarize,
    best_result: tuple[str, str],
) -> None:
    """Score and summarize some samples of the validation split on the CPU.

    Raises:
        SettingError: a function of the user's files fails, or does not return what it should.
    """
    stride = max(1, len(validation_set) // NUM_SCORED)
    samples = list(range(0, len(validation_set), stride))[:NUM_SCORED]
    with _evaluating(model):
        rows = call_users("score", score, model, read_batch(validation_set, collate, samples))
    if not isinstance(rows, Mapping):
        raise SettingError(
            f"model.py: score returned a {type(rows).__name__}; return a dictionary of tensors "
            "with one row per sample"
        )
    for name, values in rows.items():
        check_rows(name, values, len(samples))
    results = call_users("summarize", summarize, dict(rows))
    if not isinstance(results, Mapping) or not all(
        isinstance(value, int | float) for value in results.values()
    ):
        raise SettingError("model.py: summarize must return a dictionary of numbers")
    name, direction = best_result
    if name not in results or direction not in ("lowest", "highest"):
        raise SettingError(
            f"model.py: BEST_RESULT is {best_result!r}; name one of {', '.join(results)}, and "
            '"lowest" or "highest"'
        )


def _restore_buffers(model: nn.Module, before: Mapping[str, Tensor]) -> list[str]:
    """Restore the buffers, and return those that were changed by anything but BatchNorm."""
    changed = [
        name for name, buffer in model.named_buffers() if not torch.equal(buffer, before[name])
    ]
    for name, buffer in model.named_buffers():
        buffer.copy_(before[name])
    return [
        name
        for name in changed
        if not isinstance(
            model.get_submodule(name.rpartition(".")[0]), nn.modules.batchnorm._BatchNorm
        )
    ]
