"""What the supported versions of torch do in different ways; everything else is the same in all."""

import signal
import sys
from collections.abc import Iterable
from types import FrameType
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from .shards import sharded_modules


def start_all_gather(output: Tensor, part: Tensor) -> Any:
    """Start to gather the ranks' parts in `output`, one after the other; return its `Work`.

    Renamed in torch 2.13, where the old name warns.
    """
    if hasattr(dist, "all_gather_single"):
        return dist.all_gather_single(output, part, async_op=True)
    return dist.all_gather_into_tensor(output, part, async_op=True)


def obstacle_to_ordered_reduce_scatter() -> str | None:
    """Return why FSDP2 cannot sum in a fixed order, before torch 2.9; None if it can."""
    # Not at the top: it takes a second to import.
    from torch.distributed.fsdp import FSDPModule

    if hasattr(FSDPModule, "set_custom_reduce_scatter"):
        return None
    return f"FSDP2 can sum in a fixed order since torch 2.9, and this is {torch.__version__}"


def divide_after_reduce_scatter(model: nn.Module) -> None:
    """Let FSDP2 divide by the number of ranks itself, which is right in all versions.

    In torch 2.8, gloo's reduce-scatter sums where FSDP2 asks for the mean.
    """
    for module in sharded_modules(model):
        module.set_force_sum_reduction_for_comms(True)


def torchrun_flags(signals: Iterable[signal.Signals]) -> list[str]:
    """Make torchrun, in this process, forward these signals and no others; return its flags.

    It has a flag for them since torch 2.10. Before, it always takes SIGTERM, SIGINT, SIGHUP and
    SIGQUIT, so that those not wanted must be blocked, and others need a handler.
    """
    from torch.distributed.launcher.api import LaunchConfig

    handled = list(signals)
    if "signals_to_handle" in LaunchConfig.__dataclass_fields__:
        return ["--signals-to-handle", ",".join(number.name for number in handled)]
    for number in handled:
        signal.signal(number, _end_processes)
    if sys.platform != "win32":
        ignored = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT} - {*handled}
        signal.pthread_sigmask(signal.SIG_BLOCK, ignored)
    return []


def _end_processes(number: int, frame: FrameType | None) -> None:
    """Signal handler: make torchrun forward the signal and end, as it does on SIGTERM."""
    from torch.distributed.elastic.multiprocessing.api import SignalException

    raise SignalException(f"received {number}", signal.Signals(number))
