"""Signs of life of each rank, in the store of the job; and the error that a rank has told there."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from ..settings.errors import is_first_of_machine, with_host
from .rendezvous import Store
from .signal_watch import leave_with

HEARTBEAT_SECONDS = 2.0
# For a rank to end by itself after the error of another one.
LEAVE_SECONDS = 20.0
# A rank without a sign of life for so long is lost. A collective notices that a process has ended,
# but neither a cut network nor a machine without power.
LOST_SECONDS = 90.0


class Heartbeat:
    """Two threads: one counts for this rank and looks for errors and lost ranks in the store.

    The other one ends the process when the store has not answered for `LOST_SECONDS`.
    """

    def __init__(self, store: Store, rank: int) -> None:
        self.error: tuple[int, str] | None = None
        """Exit code and text of the first error that a rank has told."""

        self._store, self._rank = store, rank
        self._silence: Silence | None = None
        self._line_of_lost: Callable[[list[int]], str] = str
        self._has_ended = threading.Event()
        self._num_unanswered = 0
        store.add(f"alive/{rank}", 1)
        for work in (self._beat, self._watch_store):
            threading.Thread(target=work, daemon=True).start()

    def watch(self, world_size: int, line_of_lost: Callable[[list[int]], str]) -> None:
        """From now on, tell all ranks when one is lost; call it when all have joined.

        Rank 0 looks at all ranks, and the others at rank 0.
        """
        self._line_of_lost = line_of_lost
        self._silence = Silence(self._store, range(1 if self._rank else world_size))

    def end(self) -> None:
        """Count no more."""
        if not self._has_ended.is_set():
            with suppress(RuntimeError):
                self._store.add(f"left/{self._rank}", 1)
        self._has_ended.set()

    def _beat(self) -> None:
        try:
            while not self._has_ended.wait(HEARTBEAT_SECONDS):
                self._store.add(f"alive/{self._rank}", 1)
                self._num_unanswered = 0
                if self.error is None:
                    self._look_for_error()
        except RuntimeError:
            self._has_ended.set()  # The store is gone, with the machine that served it.

    def _look_for_error(self) -> None:
        store = self._store
        silent = self._silence.longer_than(LOST_SECONDS) if self._silence else []
        lost = [rank for rank in silent if not store.check([f"left/{rank}"])]
        if lost:
            store.compare_set("error", "", json.dumps([1, self._line_of_lost(lost)]))
        if store.check(["error"]):
            code, text = json.loads(store.get("error"))
            self.error = code, text
            store.add("told", 1)
            # The main thread may wait in a collective that has no timeout.
            timer = threading.Timer(LEAVE_SECONDS, _leave, (code, text))
            timer.daemon = True
            timer.start()

    def _watch_store(self) -> None:
        # Counted, so that a process which was stopped, as by Ctrl-Z, does not end when it goes on.
        while not self._has_ended.wait(HEARTBEAT_SECONDS):
            self._num_unanswered += 1
            if self._num_unanswered * HEARTBEAT_SECONDS > LOST_SECONDS:
                where = f"{os.environ.get('MASTER_ADDR')}:{os.environ.get('MASTER_PORT')}"
                cause = "its machine has ended, or the network is cut"
                if is_first_of_machine():
                    end_launcher_soon()
                _leave(1, f"no answer from {where} for {LOST_SECONDS:.0f} s: {cause}")


def _leave(code: int, text: str) -> None:
    """End this process; the first rank of the machine says why."""
    leave_with(code, with_host(f"error: {text}") if is_first_of_machine() else "")


# Not at once: a launcher that is not cut off ends by itself.
END_LAUNCHER = """
import select, signal, sys
launcher, grace = int(sys.argv[1]), float(sys.argv[2])
for number in (signal.SIGTERM, signal.SIGKILL):
    if select.select([launcher], [], [], grace)[0]:
        break
    signal.pidfd_send_signal(launcher, number)
"""
LAUNCHER_SECONDS = 12.0


def end_launcher_soon() -> None:
    """Let another process end this rank's torchrun, if it has not ended when this rank has.

    With `--rdzv-backend c10d`, it waits without end for the store of a machine that is cut off, and
    does not notice that its ranks have ended. One that may restart ranks is left alone.
    """
    if sys.platform != "linux" or os.environ.get("TORCHELASTIC_MAX_RESTARTS") != "0":
        return
    with suppress(OSError):
        launcher = os.pidfd_open(os.getppid())
        subprocess.Popen(
            [sys.executable, "-c", END_LAUNCHER, str(launcher), str(LAUNCHER_SECONDS)],
            pass_fds=[launcher],
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )


class Silence:
    """For how long each rank has given no sign of life, as seen from here."""

    def __init__(self, store: Store, ranks: Sequence[int]) -> None:
        self._store, self._ranks = store, ranks
        self._counts: list[bytes] = []
        self._changed_at = [time.monotonic()] * len(ranks)
        self._read_at = time.monotonic()

    def longer_than(self, seconds: float) -> list[int]:
        """Return the ranks that have been silent for longer; reads them every second."""
        now = time.monotonic()
        if not self._counts or now > self._read_at + HEARTBEAT_SECONDS / 2:
            counts = self._store.multi_get([f"alive/{rank}" for rank in self._ranks])
            # Who was stopped, as by Ctrl-Z, has not listened; the others may have been stopped too.
            has_listened = self._counts and now < self._read_at + 5 * HEARTBEAT_SECONDS
            for index, count in enumerate(counts):
                if not has_listened or count != self._counts[index]:
                    self._changed_at[index] = now
            self._counts, self._read_at = counts, now
        return [
            rank
            for rank, changed in zip(self._ranks, self._changed_at, strict=True)
            if now > changed + seconds
        ]
