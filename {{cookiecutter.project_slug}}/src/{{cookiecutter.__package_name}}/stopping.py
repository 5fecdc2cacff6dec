"""Stopping on a signal: all ranks after the same step, with a checkpoint of it."""

import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from datetime import timedelta
from types import FrameType, TracebackType

import torch
import torch.distributed as dist

from .config import PROCESS_GROUP_TIMEOUT_SECONDS
from .devices import Devices

# What schedulers send before they take a machine away, and Ctrl-C. Windows has no SIGUSR1.
SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
]
ECHO_SECONDS = 2.0


class StopSignals(AbstractContextManager["StopSignals"]):
    """Notes SIGTERM, SIGINT and SIGUSR1; a second Ctrl-C leaves at once.

    Ranks compare what they noted by an all-reduce on the CPU that runs beside the next step, so a
    signal to one of them stops all, one step later, and nothing waits.
    """

    def __init__(self, devices: Devices) -> None:
        self.reason: str | None = None
        """Name of the signal that ends the run, the same on every rank."""

        self._is_first = devices.rank == 0
        # A group of its own: the devices' may know no CPU tensors.
        timeout = timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS)
        several = devices.world_size > 1
        self._group = dist.new_group(backend="gloo", timeout=timeout) if several else None
        self._noted = 0
        self._interrupted_at: float | None = None
        # A launcher passes Ctrl-C on to ranks that may have got it themselves.
        self._echo = ECHO_SECONDS if several else 0.0
        self._highest = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None
        self._handlers: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._note) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._exchange:
            self._exchange.wait()
        # A launcher and a scheduler may both send the signal: the second must not hurt a run that
        # is leaving.
        if self.reason is None:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def agreed(self) -> bool:
        """Tell, after a step, whether to stop now; all ranks call it after every step."""
        highest = self._noted
        if self._group is not None:
            if self._exchange:
                self._exchange.wait()
            highest = int(self._highest)
            if not highest:
                self._highest = torch.tensor([self._noted], dtype=torch.int32)
                self._exchange = dist.all_reduce(
                    self._highest, dist.ReduceOp.MAX, group=self._group, async_op=True
                )
        if highest:
            self.reason = signal.Signals(highest).name
        return bool(highest)

    def _note(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now >= self._interrupted_at + self._echo:
                raise KeyboardInterrupt
            self._interrupted_at = self._interrupted_at or now
        # The first is the reason; a launcher that hears another sends SIGTERM after it.
        self._noted = self._noted or number
        if self._is_first and number == signal.SIGINT:
            # Not print: the signal may have come in the middle of one.
            os.write(2, b"\nstopping after this step; Ctrl-C again leaves at once\n")


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Let processes that are started here be deaf to the signals; this one hears them afterwards.

    Launchers and schedulers send them to the whole process group, and a reader of data that ended
    on one would take the training process with it.
    """
    if sys.platform == "win32":
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
