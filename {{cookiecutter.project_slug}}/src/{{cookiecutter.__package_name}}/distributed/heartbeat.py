"""Signs of life of each rank, in the store of the job; and the error that a rank has told there."""

import json
import threading
import time

from .rendezvous import Store
from .signal_watch import leave_with

HEARTBEAT_SECONDS = 2.0
# For a rank to end by itself after the error of another one.
LEAVE_SECONDS = 20.0


class Heartbeat:
    """A thread that counts for this rank, and looks for the error of another one."""

    def __init__(self, store: Store, rank: int) -> None:
        self.error: tuple[int, str] | None = None
        """Exit code and text of the first error that a rank has told."""

        self._store, self._key = store, f"alive/{rank}"
        self._has_ended = threading.Event()
        store.add(self._key, 1)
        threading.Thread(target=self._beat, daemon=True).start()

    def end(self) -> None:
        """Count no more."""
        self._has_ended.set()

    def _beat(self) -> None:
        try:
            while not self._has_ended.wait(HEARTBEAT_SECONDS):
                self._store.add(self._key, 1)
                if self.error is None and self._store.check(["error"]):
                    code, text = json.loads(self._store.get("error"))
                    self.error = code, text
                    self._store.add("told", 1)
                    # The main thread may wait in a collective that has no timeout.
                    timer = threading.Timer(LEAVE_SECONDS, leave_with, (code, f"error: {text}"))
                    timer.daemon = True
                    timer.start()
        except RuntimeError:
            return  # The store is gone, with the machine that served it.


class Silence:
    """For how long each rank has given no sign of life, as seen from here."""

    def __init__(self, store: Store, world_size: int) -> None:
        self._store = store
        self._keys = [f"alive/{rank}" for rank in range(world_size)]
        self._counts: list[bytes] = []
        self._changed_at = [time.monotonic()] * world_size
        self._read_at = 0.0

    def longer_than(self, seconds: float) -> list[int]:
        """Return the ranks that have been silent for longer; reads them every second."""
        now = time.monotonic()
        if now > self._read_at + HEARTBEAT_SECONDS / 2:
            self._read_at = now
            counts = self._store.multi_get(self._keys)
            for rank, count in enumerate(counts):
                if not self._counts or count != self._counts[rank]:
                    self._changed_at[rank] = now
            self._counts = counts
        return [rank for rank, changed in enumerate(self._changed_at) if now > changed + seconds]
