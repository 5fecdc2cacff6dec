"""Stop signals: all ranks stop after the same step, with a checkpoint of it."""

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

from .devices import Devices
from .process_group import PROCESS_GROUP_TIMEOUT_SECONDS

# Ctrl-C, and what schedulers send before they end or preempt a job. Windows has no SIGUSR1.
SIGNALS = [
    getattr(signal, name) for name in ("SIGTERM", "SIGINT", "SIGUSR1") if hasattr(signal, name)
]
ECHO_SECONDS = 2.0


class StopSignals(AbstractContextManager["StopSignals"]):
    """Records SIGTERM, SIGINT and SIGUSR1; a second Ctrl-C exits immediately.

    Ranks exchange what they recorded by an all-reduce on the CPU, which overlaps the next step:
    a signal to one rank stops all of them one step later, and no step waits.
    """

    def __init__(self, devices: Devices) -> None:
        self.reason: str | None = None
        """Name of the signal that ends the run, the same on every rank; None to continue."""

        self._is_main_process = devices.is_main_process
        # A separate gloo group: NCCL cannot reduce CPU tensors.
        timeout = timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS)
        is_distributed = devices.world_size > 1
        self._group = dist.new_group(backend="gloo", timeout=timeout) if is_distributed else None
        self._recorded = 0
        self._interrupted_at: float | None = None
        # A launcher may forward a Ctrl-C that the ranks have received themselves.
        self._echo = ECHO_SECONDS if is_distributed else 0.0
        self._highest = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None
        self._handlers: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> "StopSignals":
        if threading.current_thread() is threading.main_thread():
            self._handlers = {number: signal.signal(number, self._record) for number in SIGNALS}
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is None and self._exchange:
            self._exchange.wait()
        # Launcher and scheduler may both send the signal: the second must not kill a run that
        # is about to exit.
        if self.reason is None:
            for number, handler in self._handlers.items():
                signal.signal(number, handler)

    def agree(self) -> None:
        """Set `reason` if a rank has received a signal; all ranks call it after every step."""
        highest = self._recorded
        if self._group is not None:
            if self._exchange:
                self._exchange.wait()
            highest = int(self._highest)
            if not highest:
                self._highest = torch.tensor([self._recorded], dtype=torch.int32)
                self._exchange = dist.all_reduce(
                    self._highest, dist.ReduceOp.MAX, group=self._group, async_op=True
                )
        if highest:
            self.reason = signal.Signals(highest).name

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if number == signal.SIGINT:
            if self._interrupted_at is not None and now >= self._interrupted_at + self._echo:
                raise KeyboardInterrupt
            self._interrupted_at = self._interrupted_at or now
        # The first is the reason: a launcher that gets another signal sends SIGTERM after it.
        self._recorded = self._recorded or number
        if self._is_main_process and number == signal.SIGINT:
            # Not print: the signal may have arrived in the middle of one.
            os.write(2, b"\nstopping with a checkpoint; press Ctrl-C again to exit immediately\n")


@contextmanager
def signals_blocked() -> Iterator[None]:
    """Block the signals in processes that are started here; this one gets them afterwards.

    Launchers and schedulers signal the whole process group, and a DataLoader worker killed by a
    signal makes the training process fail.
    """
    if sys.platform == "win32":
        yield
    else:
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
