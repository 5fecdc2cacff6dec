"""Batches of any structure: tuples, lists, dictionaries, dataclasses, or objects with `.to`."""

import io
import pickle
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..settings.values import map_leaves


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch whose tensors are on `device`; what is no tensor stays as it is."""
    if device.type == "cpu":  # There it was made.
        return batch

    def move(leaf: Any) -> Any:
        if isinstance(leaf, Tensor):
            # From pinned memory, the host need not wait for the copy.
            is_copied = device.type == "cuda" and leaf.device.type == "cpu"
            return (leaf.pin_memory() if is_copied else leaf).to(device, non_blocking=True)
        return leaf.to(device) if hasattr(leaf, "to") else leaf

    return map_leaves(move, batch)


def concatenate(batches: list[Any]) -> Any:
    """Return batches of one structure as one: tensors are concatenated along dimension 0.

    Raises:
        ValueError: they hold anything but tensors, or tensors of other shapes.
    """

    def join(*leaves: Any) -> Any:
        if not all(isinstance(leaf, Tensor) for leaf in leaves):
            raise ValueError(f"a {type(leaves[0]).__name__} cannot be concatenated")
        try:
            return torch.cat(leaves)
        except RuntimeError as error:
            raise ValueError(str(error)) from error

    return map_leaves(join, *batches)


def taken_apart(value: Any) -> tuple[bytes, list[Tensor]]:
    """Return the tensors and arrays of an object of any class, and its pickle without them.

    Both are empty if it cannot be pickled.
    """
    rest = io.BytesIO()
    pickler = _TensorPickler(rest)
    try:
        pickler.dump(value)
    except Exception:  # Of any kind, where a class has a __reduce__ of its own.
        return b"", []
    return rest.getvalue(), pickler.tensors


class _TensorPickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.tensors: list[Tensor] = []

    def persistent_id(self, value: Any) -> int | None:
        """Take out a tensor, for which only its number is pickled."""
        if isinstance(value, np.ndarray) and value.dtype.kind in "biufc":
            value = torch.as_tensor(value)
        if not isinstance(value, Tensor):
            return None
        self.tensors.append(value)
        return len(self.tensors)
