"""Seconds of training, without those of evaluations and checkpoints."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Pause:
    """A pause of the stopwatch; `seconds` is its length once it has ended."""

    seconds = 0.0


class Stopwatch:
    """Counts from `start`; a resumed run starts from the seconds of its checkpoint."""

    def __init__(self, seconds: float, device: torch.device) -> None:
        self._device = device
        self._before = seconds
        self._since: float | None = None

    def start(self) -> None:
        """Start to count."""
        self._since = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds of training until now."""
        return self._before + (0.0 if self._since is None else time.perf_counter() - self._since)

    @contextmanager
    def paused(self) -> Iterator[Pause]:
        """Exclude the time spent inside, after waiting for steps that are queued on the device."""
        if self._device.type != "cpu":
            torch.accelerator.synchronize()
        self._before, start = self.seconds, time.perf_counter()
        pause = Pause()
        yield pause
        self._since = time.perf_counter()
        pause.seconds = self._since - start
