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


def check_sum(loss: Tensor, items: Any, twice: Callable[[], Any], num_samples: int) -> None:
    """Check that the loss of samples that are there twice is about twice their loss.

    What is random differs. A loss that is for one number of samples only is not checked.

    Args:
        loss: Loss of the samples, ().
        items: Their items.
        twice: Computes both for the samples, each there twice.
        num_samples: Number of the samples.
    """
    try:
        other, more = twice()
        once, both, is_twice = float(loss.detach()), float(other.detach()), more == 2 * items
    except (SettingError, TypeError, ValueError, AttributeError):
        return
    tolerance = 0.1 if num_samples >= 8 else 0.01
    if abs(both - once) < tolerance * abs(once) and is_twice:
        raise SettingError(
            "model.py: compute_loss returned a mean; return the sum of the losses, such as "
            'cross_entropy(..., reduction="sum"), and the number of items that it is over'
        )


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
