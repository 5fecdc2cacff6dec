"""The checkpoints of a run: which steps have one, and the thread that writes them."""

import math
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ..batches.plan import Plan
from ..batches.seeds import RANDOM_NUMBERS
from ..settings.errors import RunError
from .atomic import sync
from .progress import Progress
from .state import TrainingState
from .store import StateTensors, prune_checkpoints, write_checkpoint


class Checkpoints(AbstractContextManager["Checkpoints"]):
    """Saves the state at the steps of the plan and after the best validation.

    All ranks call `save`, because FSDP2 has a shard on each. Rank 0 writes one checkpoint at a
    time, on a thread, while training continues. As a context it waits for the last write.
    """

    def __init__(
        self,
        plan: Plan,
        start: Progress,
        state: TrainingState,
        run_dir: Path,
        *,
        data_info: dict[str, Any],
        synced_first: Path,
    ) -> None:
        """Prepare the checkpoints of a run.

        Args:
            plan: Plan of the run.
            start: The progress that the run starts from.
            state: What is saved.
            run_dir: Folder of the run.
            data_info: What `describe` of `data.py` returned.
            synced_first: metrics.jsonl, synced before each checkpoint so that it never ends
                earlier.
        """
        self.plan = plan
        self.state = state
        self.run_dir = run_dir
        self.synced_first = synced_first
        devices = plan.devices
        self.progress = replace(
            start,
            data_info=data_info,
            num_train_samples=plan.num_train_samples,
            strategy=devices.strategy,
            world_size=devices.world_size,
            exact=devices.exact,
        )
        """The progress that the next checkpoint will hold."""

        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="checkpoint")
        self._writing: Future[None] | None = None

    def record_validation(self, step: int, value: float, *, is_highest_best: bool) -> None:
        """Record the best validation result, whose checkpoint is kept."""
        best, since = self.progress.best_value, self.progress.validations_since_best
        is_better = best is None or (value > best if is_highest_best else value < best)
        changed: dict[str, Any] = {"validations_since_best": since + 1}
        if math.isfinite(value) and is_better:
            changed = {"best_step": step, "best_value": value, "validations_since_best": 0}
        self.progress = replace(self.progress, **changed)

    @property
    def has_ended(self) -> bool:
        """Whether validation has not improved for as long as `patience` allows."""
        return self.progress.has_ended(self.plan.config.patience)

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        # The run folder is unlocked after this. A second Ctrl-C does not wait.
        if kind is None:
            self.wait()
        elif not issubclass(kind, KeyboardInterrupt):
            with suppress(RunError):
                self.wait()

    def due_at(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step`: by the plan, or as the best so far."""
        is_decisive = self.progress.best_step == step or self.has_ended
        return (is_decisive and self.plan.config.checkpoint_every > 0) or self.plan.saves_at(step)

    def save(self, step: int, *, train_seconds: float, skipped_steps: int) -> None:
        """Copy the state after `step`, and write it in the background.

        Raises:
            RunError: the previous checkpoint could not be written.
        """
        self.progress = replace(
            self.progress,
            step=step,
            train_seconds=train_seconds,
            skipped_steps=skipped_steps,
            scaler=self.state.scaler_state(),
        )
        tensors = self.state.tensors()
        if self.plan.devices.is_main_process:
            self.wait()
            metadata = {
                **asdict(self.progress),
                "config": self.plan.config.saved(),
                "random_numbers": RANDOM_NUMBERS,
            }
            self._writing = self._thread.submit(self._write, step, tensors, metadata)

    def wait(self) -> None:
        """Wait until the last checkpoint is written.

        Raises:
            RunError: it could not be written.
        """
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def check(self) -> None:
        """Raise what `wait` raises if the last checkpoint has failed already; does not wait."""
        if self._writing and self._writing.done():
            self.wait()

    def _write(self, step: int, tensors: StateTensors, metadata: Mapping[str, Any]) -> None:
        try:
            sync(self.synced_first)
            write_checkpoint(self.run_dir, step, tensors, metadata)
        except OSError as error:
            raise RunError(
                f"step {step}: the checkpoint cannot be written: {error.strerror or error}"
            ) from error
        try:
            keep = self.plan.config.keep_checkpoints
            prune_checkpoints(self.run_dir, keep=keep, best_step=metadata["best_step"])
        except OSError as error:
            raise RunError(
                f"step {step}: an old checkpoint cannot be removed: {error.filename}: "
                f"{error.strerror or error}"
            ) from error
