"""Checkpoints written while training goes on; rank 0 only."""

from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from .checkpoint import StateTensors, prune_checkpoints, write_checkpoint
from .errors import RunError
from .files import sync
from .metrics_file import METRICS_FILE


class CheckpointWriter:
    """Writes one checkpoint at a time on a thread of its own."""

    def __init__(self, run_dir: Path, *, keep: int) -> None:
        self.run_dir = run_dir
        self.keep = keep
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def write(self, step: int, tensors: StateTensors, facts: Mapping[str, Any]) -> None:
        """Begin to write a checkpoint, once the one before is whole; `tensors` must not change.

        Raises:
            RunError: the one before could not be written.
        """
        self.wait()
        self._writing = self._thread.submit(self._write, step, tensors, facts)

    def wait(self) -> None:
        """Wait until the checkpoint is whole.

        Raises:
            RunError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def check(self) -> None:
        """Raise as `wait` does where the checkpoint has failed already; waits for nothing."""
        if self._writing and self._writing.done():
            self.wait()

    def _write(self, step: int, tensors: StateTensors, facts: Mapping[str, Any]) -> None:
        try:
            # The log first: it must reach as far as the checkpoint.
            sync(self.run_dir / METRICS_FILE)
            write_checkpoint(self.run_dir, step, tensors, facts)
        except OSError as error:
            raise RunError(
                f"step {step}: the checkpoint cannot be written: {error.strerror or error}"
            ) from error
        prune_checkpoints(self.run_dir, keep=self.keep, best_step=facts["best_step"])
