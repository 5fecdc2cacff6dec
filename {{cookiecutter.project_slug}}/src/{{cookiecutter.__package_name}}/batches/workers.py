"""DataLoader workers: processes that read batches, and may die or hang."""

import atexit
import multiprocessing
import signal
from collections.abc import Iterator
from functools import partial
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from ..distributed.signals import signals_blocked
from ..settings.errors import RunError

# For one batch: a worker that is stuck would keep the run waiting for ever.
TIMEOUT_SECONDS = 300


class WorkerLoader(DataLoader[Any]):
    """A `DataLoader` whose workers ignore the signals that stop the run.

    Args:
        dataset: What the workers read.
        num_workers: Their number, at least one.
        threads: CPU threads of each; the sums inside a kernel depend on it.
        options: Of `DataLoader`.

    Raises:
        RunError: a worker was killed, or sent no batch for `TIMEOUT_SECONDS`.
    """

    def __init__(
        self, dataset: Dataset[Any], *, num_workers: int, threads: int, **options: Any
    ) -> None:
        super().__init__(
            dataset,
            num_workers=num_workers,
            timeout=TIMEOUT_SECONDS,
            worker_init_fn=partial(_set_threads, threads),
            collate_fn=_unchanged,
            **options,
        )
        atexit.register(_kill_workers)

    def __iter__(self) -> Any:
        try:
            with signals_blocked():
                batches = super().__iter__()
        except OSError as error:
            raise _worker_error(error) from error
        return self._checked(batches)

    def _checked(self, batches: Iterator[Any]) -> Iterator[Any]:
        try:
            yield from batches
        except RuntimeError as error:
            if not str(error).startswith(("DataLoader worker", "DataLoader timed out")):
                raise
            raise _worker_error(error) from error


def _unchanged(batch: Any) -> Any:
    """Return a batch as it was read; without this, workers would make tensors of its arrays."""
    return batch


def _set_threads(threads: int, worker: int) -> None:
    torch.set_num_threads(threads)


def _worker_error(error: Exception) -> RunError:
    reason = " ".join(str(error).split()).rstrip(".")
    return RunError(
        f"DataLoader workers: {reason}; try --num-workers 0. Known causes: a /dev/shm that is too "
        "small (docker run --shm-size), too little memory, files that cannot be reached"
    )


def _kill_workers() -> None:
    """Kill workers that are left after an error: Python would wait for them forever."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's handler would report each of them as a failure.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        process.kill()
