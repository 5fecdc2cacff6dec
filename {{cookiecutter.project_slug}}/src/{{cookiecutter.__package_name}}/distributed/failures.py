"""How the ranks of a job fail together: each with the cause, in one line, and soon."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeGuard

import torch.distributed as dist

from ..settings.errors import RunError, in_one_line
from .peers import PEERS


@contextmanager
def failing_together() -> Iterator[None]:
    """Tell the other ranks of an error inside, once it is printed here, and exit."""
    try:
        yield
    except SystemExit as stop:
        if isinstance(stop.__cause__, Exception):
            PEERS.tell(int(stop.code or 0), str(stop.__cause__))
        raise
    except Exception as error:
        sys.excepthook(type(error), error, error.__traceback__)
        PEERS.tell(1, in_one_line(error))
        raise SystemExit(1) from error


def is_of_communication(error: BaseException | None) -> TypeGuard[RuntimeError]:
    """Return whether an error is of the process group: a peer was lost, or did not answer."""
    # A `RunError` that quotes one has been explained.
    if not isinstance(error, RuntimeError) or isinstance(error, RunError):
        return False
    text = str(error)
    return isinstance(error, dist.DistError) or "gloo" in text or "NCCL" in text


@contextmanager
def lost_peers_named() -> Iterator[None]:
    """Raise a `RunError` that names the cause in place of an error of communication."""
    try:
        yield
    except RuntimeError as error:
        if not is_of_communication(error):
            raise
        raise RunError(PEERS.explain(error)) from error
