"""What a forward pass changes by itself, which makes results depend on the placement."""

import sys

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed.collectives import is_distributed, max_over_ranks, min_over_ranks
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
    differing = []
    for name, buffer in buffers_of_others(model).items():
        if not buffer.numel() or buffer.is_complex():
            continue
        values = buffer.to(torch.uint8) if buffer.dtype == torch.bool else buffer.detach()
        lowest, highest = min_over_ranks(values.clone()), max_over_ranks(values.clone())
        if not torch.equal(lowest, highest):
            differing.append(name)
    return differing


def buffers_of_others(model: nn.Module) -> dict[str, Tensor]:
    """Return the buffers by name, without those of BatchNorm, which `BatchNormSum` keeps alike."""
    return {
        name: buffer
        for name, buffer in model.named_buffers()
        if not isinstance(model.get_submodule(name.rpartition(".")[0]), _BatchNorm)
    }
