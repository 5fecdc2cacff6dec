"""What a forward pass changes by itself, which makes results depend on the placement."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed.collectives import gather_from_ranks, is_distributed
from ..distributed.devices import Devices
from ..distributed.shards import local_part


class OwnChanges:
    """Finds what forward passes change: buffers that differ between ranks, frozen parameters.

    Args:
        model: The model, before the first step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.frozen = _sums_of_frozen(model)

    def warn(self, devices: Devices) -> None:
        """Name them, on rank 0; all ranks call it, after a few steps."""
        sums = _sums_of_frozen(self.model)
        names = [name for name, found in sums.items() if found != self.frozen[name]]
        names += differing_buffers(self.model)
        if names and devices.is_main_process:
            print(
                f"warning: model.py: the forward pass changes {', '.join(names[:5])}, on each rank "
                "by its own micro-batches; results depend on the number of processes",
                file=sys.stderr,
            )


def _sums_of_frozen(model: nn.Module) -> dict[str, Tensor]:
    """Return the sum of the bytes of each frozen parameter, such as a teacher's; of shards, own."""
    frozen = {n: local_part(p) for n, p in model.named_parameters() if not p.requires_grad}
    # Subclasses, as of quantized weights, may have no bytes to look at.
    return {
        name: part.flatten().view(torch.uint8).sum()
        for name, part in frozen.items()
        if type(part) is Tensor
    }


def differing_buffers(model: nn.Module) -> list[str]:
    """Return the names of buffers that differ between ranks; all ranks call it."""
    if not is_distributed():
        return []
    # Not by element: a buffer may have another shape on another rank, such as a mask that grows.
    ranks = gather_from_ranks(_digests(model))
    names = {name: None for rank in ranks for name in rank}
    return [name for name in names if any(rank.get(name) != ranks[0].get(name) for rank in ranks)]


def _digest(tensor: Tensor) -> str:
    """Return a digest of type, shape and values; of a subclass, such as quantized numbers, none."""
    if type(tensor) not in (Tensor, nn.Buffer) or tensor.layout != torch.strided:
        return ""
    content = tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {blake2b(content, digest_size=8).hexdigest()}"


@contextmanager
def buffers_restored(model: nn.Module) -> Iterator[list[str]]:
    """Restore the model's buffers afterwards, and remove those that were registered inside.

    The list then has the names of those that were changed, but for BatchNorm's.
    """
    before = [(module, dict(module._buffers)) for module in model.modules()]
    values = {id(buffer): buffer.clone() for buffer in model.buffers()}
    digests = _digests(model)
    changed: list[str] = []
    yield changed
    now = _digests(model)
    changed += [name for name, digest in digests.items() if now.get(name) != digest]
    for module, buffers in before:
        for name in module._buffers.keys() - buffers.keys():
            delattr(module, name)
        for name, buffer in buffers.items():
            if module._buffers.get(name) is not buffer:
                setattr(module, name, buffer)
            if buffer is not None:
                buffer.copy_(values[id(buffer)])


def _digests(model: nn.Module) -> dict[str, str]:
    return {name: _digest(buffer) for name, buffer in buffers_of_others(model).items()}


def buffers_of_others(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, without those of BatchNorm, which `BatchNormSum` keeps alike."""
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if not isinstance(model.get_submodule(name.rpartition(".")[0]), _BatchNorm)
    }
