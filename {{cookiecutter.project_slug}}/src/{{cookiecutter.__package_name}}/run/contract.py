"""Checks of what the user's functions return; each error says what to return instead.

All raise `SettingError`.
"""

from collections.abc import Callable, Sized
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import IterableDataset

from ..batches.loaders import Collate, MapDataset
from ..settings.errors import SettingError
from .users_code import call_users, read_batch

ComputeLoss = Callable[[nn.Module, Any], tuple[Tensor, int | Tensor]]


def check_set(split: str, dataset: Any) -> None:
    """Check that a split is a map-style data set with samples."""
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


def check_parameters(model: nn.Module) -> None:
    """Check that each parameter has a shape: the optimizer is made before the first batch."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise SettingError(
                f"model.py: {name} is of a lazy layer, which has no shape before the first batch; "
                "give the layer its size, or call the model once in make_model"
            )


def check_layers(model: nn.Module) -> None:
    """Check that no layer computes something else on another number of processes."""
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


def check_loss(result: Any, num_samples: int) -> tuple[Tensor, int | None]:
    """Return the loss that compute_loss returned, and the items per sample if that is constant."""
    if not (isinstance(result, tuple) and len(result) == 2):
        raise SettingError(
            f"model.py: compute_loss returned a {type(result).__name__}; return the sum of the "
            "losses and the number of items that it is over, (loss, items)"
        )
    loss, items = result
    if not isinstance(loss, Tensor) or loss.numel() != 1 or not loss.is_floating_point():
        found = tuple(loss.shape) if isinstance(loss, Tensor) else type(loss).__name__
        raise SettingError(
            f"model.py: compute_loss returned {found} as the loss; return a scalar, "
            "such as the sum of several"
        )
    if isinstance(items, Tensor) and items.numel() == 1:
        return loss, None
    if not isinstance(items, int) or items < 1 or items % num_samples:
        raise SettingError(
            f"model.py: compute_loss returned {items} as the number of items of {num_samples} "
            "samples; return their number, or a scalar tensor if it varies"
        )
    return loss, items // num_samples


def check_sum(
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
