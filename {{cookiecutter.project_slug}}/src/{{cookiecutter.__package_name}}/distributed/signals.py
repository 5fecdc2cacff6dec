"""Stop signals: all ranks stop after the same step, with a checkpoint of it."""

import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from types import FrameType
from typing import Any, Self

import torch
import torch.distributed as dist

from ..settings.output import STDERR, write_or_drop
from .devices import Devices
from .process_group import PROCESS_GROUP_TIMEOUT_SECONDS
from .signal_watch import SIGNALS, WATCH, leave, leave_unsaved

# A launcher and a scheduler may send the same signal; a later one is another request.
ECHO_SECONDS = 2.0
# Seconds without progress (a step, or a batch of an evaluation) after the first or a repeated
# signal, until the run counts as hung.
GRACE_SECONDS, REPEATED_SECONDS = 300.0, 10.0
KEPT = "; the latest complete checkpoint is kept"
CTRL_C_MESSAGE = b"\nstopping with a checkpoint; press Ctrl-C again to exit immediately\n"


class StopSignals:
    """Records SIGTERM, SIGINT, SIGUSR1 and SIGHUP; a second SIGTERM or Ctrl-C exits immediately.

    Ranks exchange what they recorded by an all-reduce on the CPU, which overlaps the next step:
    a signal to one rank stops all of them one step later, and no step waits. A run that hangs for
    `GRACE_SECONDS` after a signal exits too; the latest complete checkpoint is kept.
    """

    def __init__(self, devices: Devices) -> None:
        self.reason: str | None = None
        """Name of the signal that ends the run, the same on every rank; None to continue."""

        self._is_main_process = devices.is_main_process
        # A separate gloo group: NCCL cannot reduce CPU tensors.
        timeout = timedelta(seconds=PROCESS_GROUP_TIMEOUT_SECONDS)
        is_distributed = devices.world_size > 1
        self._group: Any = None
        if is_distributed:
            self._group = dist.new_group(backend="gloo", timeout=timeout)
        WATCH.has_stopped_run = False
        self._recorded = 0
        self._first_at: dict[int, float] = {}
        self._watched_at: dict[int, float] = {}
        self._lock = threading.Lock()
        self._has_ended = False
        self._grace: threading.Timer | None = None
        # A launcher may forward a Ctrl-C that the ranks have received themselves.
        self._echo = ECHO_SECONDS if is_distributed else 0.0
        self._highest = torch.zeros(1, dtype=torch.int32)
        self._exchange: dist.Work | None = None

    def __enter__(self) -> Self:
        if threading.current_thread() is threading.main_thread():
            WATCH.replaced = {
                number: signal.signal(number, self._record)
                for number in SIGNALS
                # As nohup does it: what is ignored stays so.
                if signal.getsignal(number) is not signal.SIG_IGN
            }
            WATCH.start(self._watch)
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if kind is None and self._exchange:
            self._exchange.wait()
        with self._lock:  # The thread must not start another timer.
            self._has_ended = True
            if self._grace:
                self._grace.cancel()
        # Launcher and scheduler may both send the signal: the second must not kill a run that
        # is about to exit.
        if self.reason is None and WATCH.replaced:
            WATCH.restore_handlers()
            if WATCH.is_of_program:
                WATCH.start(leave_unsaved)
            else:
                WATCH.stop()

    def agree(self) -> None:
        """Set `reason` if a rank has received a signal; all ranks call it after every step."""
        WATCH.progress()
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
            WATCH.has_stopped_run = True
            self.reason = signal.Signals(highest).name

    def _record(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self._is_repeated(number, now):
            raise KeyboardInterrupt
        self._first_at.setdefault(number, now)
        # The first is the reason: a launcher that gets another signal sends SIGTERM after it.
        self._recorded = self._recorded or number
        if self._is_main_process and number == signal.SIGINT:
            # Not print: the signal may have arrived in the middle of one.
            write_or_drop(STDERR, CTRL_C_MESSAGE)

    def _is_repeated(self, number: int, now: float) -> bool:
        """Return whether a signal asks a second time to end the run.

        SIGTERM after SIGUSR1 does not: a scheduler gives notice by one and ends a job by the other.
        """
        if number not in self._first_at or number not in (signal.SIGINT, signal.SIGTERM):
            return False
        return now >= self._first_at[number] + self._echo_seconds(number)

    def _echo_seconds(self, number: int) -> float:
        """Return for how long the same signal may arrive again, without asking for more."""
        # Launcher and scheduler may both send SIGTERM.
        return self._echo if number == signal.SIGINT else ECHO_SECONDS

    def _watch(self, number: int) -> None:
        """Handle a signal in a thread: the main one may be blocked, and `_record` not called."""
        with self._lock:
            if self._has_ended or self.reason is not None:
                return  # It is about to exit.
            now = time.monotonic()
            before = self._watched_at.get(number)
            if before is not None and now < before + self._echo_seconds(number):
                return
            self._watched_at[number] = now
            is_repeated = before is not None and number in (signal.SIGINT, signal.SIGTERM)
            if self._grace is not None and not is_repeated:
                return
            WATCH.progress()
            limit = REPEATED_SECONDS if is_repeated else GRACE_SECONDS
            self._start_timer(number, limit, limit, leave_at_once=is_repeated)

    def _start_timer(
        self, number: int, seconds: float, limit: float, *, leave_at_once: bool
    ) -> None:
        """Leave in `seconds`, unless there was progress within `limit`: then wait again."""

        def check() -> None:
            with self._lock:
                left = WATCH.progressed_at + limit - time.monotonic()
                if self._has_ended or self.reason is not None:
                    return
                if left > 0 and not leave_at_once:
                    return self._start_timer(number, left, limit, leave_at_once=False)
            name = signal.Signals(number).name
            leave(number, f"no step ended within {limit:.0f} s after {name}{KEPT}")

        self._grace = threading.Timer(max(seconds, 0.0), check)
        self._grace.daemon = True
        self._grace.start()


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
