"""Checks of what the user's functions return; each error says what to return instead.

All raise `SettingError`.
"""

from collections.abc import Callable, Mapping, Sized
from numbers import Integral
from typing import Any

from torch import Tensor, nn
from torch.utils.data import IterableDataset

from ..settings.errors import SettingError
from .metrics_file import METRICS_FILE, OWN_NAMES
from .model_checks import check_graph

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
    check_graph(loss)
    if isinstance(items, Tensor) and items.numel() == 1:
        return loss, None
    if not isinstance(items, Integral) or items < 1 or items % num_samples:
        raise SettingError(
            f"model.py: compute_loss returned {items} as the number of items of {num_samples} "
            "samples; return their number, as a scalar tensor if it varies or is no multiple of "
            "the samples"
        )
    return loss, int(items) // num_samples


def check_sum(measure: Callable[[list[int], int], Any], samples: list[int]) -> bool:
    """Check that the loss of samples that are there twice is twice their loss; about, with noise.

    Args:
        measure: Computes the loss and its items for samples, with the random numbers of a seed.
        samples: Indices.

    Returns:
        Whether it could be checked.
    """

    def measured(some: list[int], seed: int) -> tuple[float, float]:
        loss, items = measure(some, seed)
        return float(loss.detach() if isinstance(loss, Tensor) else loss), float(items)

    try:
        (once, items), (other, _), (twice, more) = (
            measured(*arguments) for arguments in ((samples, 0), (samples, 1), (2 * samples, 0))
        )
        is_mean = more == 2 * items and abs(twice - once) < 1e-3 * abs(once)
        if more == 2 * items and other != once:
            losses = [once, other, measured(samples, 2)[0]]
            more_losses = [twice, *(measured(2 * samples, seed)[0] for seed in (1, 2))]
            size = abs(sum(losses)) / 3
            noise = max(losses) - min(losses)
            is_mean = noise < size / 4 and abs(sum(more_losses) - sum(losses)) / 3 < size / 10
    except (SettingError, TypeError, ValueError, RuntimeError):
        return False
    if is_mean:
        raise SettingError(
            "model.py: compute_loss returned a mean; return the sum of the losses, such as "
            'cross_entropy(..., reduction="sum"), and the number of items that it is over'
        )
    return True


def check_results(results: Mapping[str, float], best_result: tuple[str, str]) -> None:
    """Check the names of what summarize returned, and that `BEST_RESULT` is of it."""
    if taken := [name for name in results if name in OWN_NAMES]:
        raise SettingError(
            f"model.py: summarize returned {', '.join(taken)}, which {METRICS_FILE} has already; "
            "choose another name"
        )
    is_pair = isinstance(best_result, tuple) and len(best_result) == 2
    name, direction = best_result if is_pair else ("", "")
    if name not in results or direction not in ("lowest", "highest"):
        raise SettingError(
            f"model.py: BEST_RESULT is {best_result!r}; make it a pair, of one of "
            f"{', '.join(results) or 'what summarize returns, which is nothing'}, and "
            '"lowest" or "highest"'
        )
