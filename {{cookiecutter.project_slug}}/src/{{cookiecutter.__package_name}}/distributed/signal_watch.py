"""Signals seen from a thread: also while the main thread waits for a file or another process.

Python calls its handlers between two statements of the main thread only. A thread reads the number
of each signal from a pipe instead (`signal.set_wakeup_fd`).
"""

import contextlib
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from ..settings.output import STDERR, write_or_drop

# Ctrl-C, what schedulers send before they end or preempt a job, and what a terminal sends that is
# closed. Windows has neither SIGUSR1 nor SIGHUP.
NAMES = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP")
SIGNALS = [getattr(signal, name) for name in NAMES if hasattr(signal, name)]
CTRL_C_EXIT_CODE, STOPPED_EXIT_CODE = 130, 143
# For a last line, which a reader that has stopped would hold up for ever.
SECONDS_TO_WRITE = 1.0


class SignalWatch:
    """Calls a function, in a thread of its own, with the number of each signal."""

    def __init__(self) -> None:
        self.is_of_program = False
        """Whether it was started with the program, rather than by a run inside another one."""

        self.has_stopped_run = False
        """Whether all ranks have agreed to stop the run."""

        self.progressed_at = 0.0
        """When the run last did something, in seconds of `time.monotonic`."""

        self.replaced: dict[int, Any] = {}
        """The handlers that a run has replaced by its own."""

        self._call: Callable[[int], None] = leave_unsaved
        self._pipe: tuple[int, int] | None = None

    def start(self, call: Callable[[int], None]) -> None:
        """Call `call` from now on; the main thread starts it."""
        self._call = call
        if self._pipe is not None:
            return
        for number in SIGNALS:
            # Process 1 of a container gets no signal without a handler. What is ignored, as by
            # nohup, stays so.
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, _do_nothing)
        self._pipe = os.pipe()
        if sys.platform != "win32":
            os.set_blocking(self._pipe[1], False)
        signal.set_wakeup_fd(self._pipe[1], warn_on_full_buffer=False)
        threading.Thread(target=self._read, args=(self._pipe[0],), daemon=True).start()

    def progress(self) -> None:
        """Note that the run made progress: a step, or a batch of an evaluation."""
        self.progressed_at = time.monotonic()

    def restore_handlers(self) -> None:
        """Set the handlers again that the run has replaced."""
        for number, handler in self.replaced.items():
            signal.signal(number, handler)
        self.replaced = {}

    def stop(self) -> None:
        """Leave signals to whoever sets handlers next."""
        if self._pipe is None:
            return
        signal.set_wakeup_fd(-1)
        for number in SIGNALS:
            if signal.getsignal(number) is _do_nothing:
                default = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default)
        os.close(self._pipe[1])
        self._pipe = None

    def leave_child_alone(self) -> None:
        """Restore the handlers in a forked child, and close its end of the pipe.

        Without this, `terminate()` of a worker would stop the run, and not the worker.
        """
        self.restore_handlers()
        self.stop()

    def _read(self, descriptor: int) -> None:
        with contextlib.suppress(OSError):
            while numbers := os.read(descriptor, 64):
                for number in numbers:
                    if number in SIGNALS:
                        self._call(number)
            os.close(descriptor)


def leave(number: int, message: str) -> None:
    """End this process at once, as a signal ends it."""
    leave_with(CTRL_C_EXIT_CODE if number == signal.SIGINT else STOPPED_EXIT_CODE, message)


def leave_with(code: int, message: str) -> None:
    """Print a line, if any, and end this process at once, also while its main thread is blocked."""
    line = f"{message}\n".encode() if message else b""
    writing = threading.Thread(target=write_or_drop, args=(STDERR, line), daemon=True)
    writing.start()
    writing.join(SECONDS_TO_WRITE)
    os._exit(code)


def leave_unsaved(number: int) -> None:
    """End this process while no run trains: there is nothing to save."""
    leave(number, f"stopped by {signal.Signals(number).name}; nothing to save")


def _do_nothing(number: int, frame: object) -> None:
    """Let the thread handle it."""


WATCH = SignalWatch()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=WATCH.leave_child_alone)
