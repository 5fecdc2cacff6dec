"""Shared fixtures: a short run on one process, made once."""

import os
import signal
from pathlib import Path

import pytest

from my_run.distributed.versions import (
    obstacle_to_ordered_reduce_scatter,
)

from .launching import run_train

NEEDS_EXACT_FSDP2 = pytest.mark.skipif(
    obstacle_to_ordered_reduce_scatter() is not None, reason="FSDP2 is not exact before torch 2.9"
)

# One thread a process, as the launchers set it, so that a run does not depend on how it started.
os.environ["OMP_NUM_THREADS"] = "1"

# What the tests' own launcher ignores, as a shell does in the background, the programs that they
# start would ignore too.
for name in ("SIGINT", "SIGHUP", "SIGQUIT"):
    if hasattr(signal, name) and signal.getsignal(getattr(signal, name)) is signal.SIG_IGN:
        default = signal.default_int_handler if name == "SIGINT" else signal.SIG_DFL
        signal.signal(getattr(signal, name), default)

# 24 steps of 19 an epoch: across an epoch boundary, with samples left over, dropout and
# augmentation on, and clipping and a decaying learning rate on.
SHORT_RUN = [
    *("--max-steps", 24, "--warmup-steps", 5),
    *("--log-every", 3, "--eval-every", 10, "--tracker", "none"),
]


@pytest.fixture(scope="session")
def single_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_train(
        tmp_path_factory.mktemp("runs") / "single", *SHORT_RUN, "--tracker", "tensorboard"
    )
