"""Checks of what the user's functions return; each error says what to return instead.

All raise `SettingError`.
"""

from collections.abc import Callable, Collection, Mapping, Sized
from typing import Any

from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter
from torch.utils.data import IterableDataset

from ..batches.loaders import Collate, MapDataset
from ..settings.errors import SettingError
from .metrics_file import METRICS_FILE, OWN_NAMES
from .users_code import call_users, read_batch

ComputeLoss = Callable[[nn.Module, Any], tuple[Tensor, int | Tensor]]


class CalledOnly(nn.Module):
    """A model as DDP and DataParallel wrap it: to be called, and without its attributes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        return self.module(*inputs, **named_inputs)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"under DDP the model can only be called, and has no {name!r}; let its forward "
                "compute what needs it"
            ) from None


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
    """Check that no layer depends on the number of processes, or has more state than tensors."""
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
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise SettingError(
                f"model.py: {name} of the state is a {type(value).__name__}; checkpoints hold "
                "tensors: keep it as a buffer, instead of get_extra_state"
            )


def check_names(before: Collection[str], model: nn.Module) -> None:
    """Check that a forward pass has given the weights no other names."""
    if new := [name for name in model.state_dict() if name not in before]:
        raise SettingError(
            f"model.py: the forward pass registers {', '.join(new[:3])}, which a new model does "
            "not have, so that it could not load the weights; register it in __init__, or with "
            "persistent=False"
        )


def put_in_training_mode(model: nn.Module) -> tuple[str, ...]:
    """Put a model in training mode; return what alone was in evaluation mode, outermost modules."""
    found: list[str] = []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if model.training and not module.training and not is_inside:
            found.append(name)
    model.train()
    return tuple(name for name in found if model.get_submodule(name).training)


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
    _check_graph(loss)
    if isinstance(items, Tensor) and items.numel() == 1:
        return loss, None
    if not isinstance(items, int) or items < 1 or items % num_samples:
        raise SettingError(
            f"model.py: compute_loss returned {items} as the number of items of {num_samples} "
            "samples; return their number, or a scalar tensor if it varies"
        )
    return loss, items // num_samples


def _check_graph(loss: Tensor) -> None:
    """Check that DDP can compute the gradient."""
    found, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in found:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise SettingError(
                "model.py: torch.utils.checkpoint is called with use_reentrant=True, and DDP would "
                "take a gradient twice; use use_reentrant=False, which gives the same bits"
            )
        found.add(node)
        left += [following for following, _ in node.next_functions]


def check_sum(
    compute_loss: ComputeLoss, model: nn.Module, dataset: MapDataset, collate: Collate, size: int
) -> None:
    """Check that the loss of samples that are there twice is twice their loss.

    The model is in evaluation mode, without dropout; some have losses in training mode only, as
    those of detection.
    """
    samples = list(range(min(size, len(dataset))))
    batches = [read_batch(dataset, collate, some) for some in (samples, 2 * samples)]

    def measured() -> list[tuple[float, float]]:
        results = (call_users("compute_loss", compute_loss, model, batch) for batch in batches)
        return [(float(loss), float(items)) for loss, items in results]

    try:
        (once, items), (twice, more) = measured()
    except (SettingError, TypeError, ValueError):
        model.train()
        (once, items), (twice, more) = measured()
    if abs(twice - once) < 1e-3 * abs(once) and more == 2 * items:
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
    name, direction = best_result
    if name not in results or direction not in ("lowest", "highest"):
        raise SettingError(
            f"model.py: BEST_RESULT is {best_result!r}; name one of {', '.join(results)}, and "
            '"lowest" or "highest"'
        )
