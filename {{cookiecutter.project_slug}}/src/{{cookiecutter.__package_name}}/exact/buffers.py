"""Buffers that each rank changes in its own way, which makes results depend on the placement."""

import sys

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..distributed.collectives import is_distributed, max_over_ranks, min_over_ranks
from ..distributed.devices import Devices


def warn_about_buffers(model: nn.Module, devices: Devices) -> None:
    """Name, on rank 0, the buffers that differ between ranks; all ranks call it."""
    names = differing_buffers(model)
    if names and devices.is_main_process:
        print(
            f"warning: model.py: the forward pass changes {', '.join(names[:5])}, on each rank by "
            "its own micro-batches; results depend on the number of processes",
            file=sys.stderr,
        )


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
