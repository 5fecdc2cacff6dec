"""How many samples of a model are tried before training, and with how many cores."""

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

NUM_SCORED = 64
# A large model is tried with two samples, because a CPU would need minutes for more.
LARGE_MODEL_PARAMETERS = 10_000_000


def num_tried(model: nn.Module, most: int) -> int:
    """Return the number of samples to try."""
    return min(most, 2 if _is_large(model) else NUM_SCORED)


def _is_large(model: nn.Module) -> bool:
    return sum(p.numel() for p in model.parameters()) > LARGE_MODEL_PARAMETERS


@contextmanager
def all_cores(model: nn.Module) -> Iterator[None]:
    """Let a large model use the machine's cores inside, shared with the ranks beside this one.

    Exact runs have one thread, on which 124 million parameters and 1,024 tokens take half a minute.
    """
    before = torch.get_num_threads()
    if _is_large(model):
        num_ranks = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
        torch.set_num_threads(max(before, (os.cpu_count() or 1) // num_ranks))
    try:
        yield
    finally:
        torch.set_num_threads(before)
