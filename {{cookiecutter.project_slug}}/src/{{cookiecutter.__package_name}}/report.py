"""What a run says while it goes and what it leaves behind; rank 0 speaks and writes."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, replace
from types import TracebackType
from typing import Self

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from .checkpoint_writer import CheckpointWriter
from .errors import RunError
from .finite import FiniteCheck
from .metrics import Evaluation
from .metrics_file import append_metrics
from .plan import Plan
from .resume import how_to_go_on
from .run_folder import RunFolder
from .trackers import Tracker
from .training_state import TrainingState

SECONDS_FOR_RANK_0 = 5.0


class Report(AbstractContextManager["Report"]):
    """The run folder, lines, a progress bar, `metrics.jsonl`, checkpoints and the tracker.

    Every rank calls the methods. The bar is for terminals; elsewhere each logged step is a line.

    Raises:
        RunError: a loss was not finite, or a checkpoint could not be written.
    """

    def __init__(self, plan: Plan, run_folder: RunFolder) -> None:
        self.plan = plan
        self.run_folder = run_folder
        if run_folder.path is not None:
            run_folder.start()
        self.run_dir = run_folder.path
        if self.run_dir is not None:
            self._writer = CheckpointWriter(self.run_dir, keep=plan.config.keep_checkpoints)
        self.tracker = Tracker(plan.config, self.run_dir, first_step=plan.start.step + 1)
        self.console = Console(highlight=False)
        self.finite = FiniteCheck(plan)
        self.progress = replace(
            plan.start,
            num_train_samples=plan.num_train_samples,
            strategy=plan.devices.strategy,
            world_size=plan.devices.world_size,
            exact=plan.devices.exact,
        )
        """How far the run has come; what the next checkpoint will say."""

        self.test: Evaluation | None = None
        self.steps_done = plan.start.step
        self.train_seconds = plan.start.train_seconds
        self.checkpoint_seconds = 0.0
        """How long the loop has waited for checkpoints."""

        self._mark = (plan.start.step, self.train_seconds)  # At the last training line.
        self._running_since = time.perf_counter()
        self._bar = Bar(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[state]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=self.run_dir is None or not self.console.is_terminal,
        )
        self._task = self._bar.add_task(
            "train", total=plan.total_steps, completed=plan.start.step, state=""
        )

    def __enter__(self) -> Self:
        self._running_since = time.perf_counter()
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()
        self._stop_watch()
        self.tracker.finish()
        if self.run_dir is None and isinstance(error, RunError):
            # All ranks know it, and a launcher ends the others after the first that leaves: rank 0
            # closes the tracker and says why.
            time.sleep(SECONDS_FOR_RANK_0)
        if self.run_dir is not None and error is None:
            with self.explained():
                self._writer.wait()

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what is not training, such as an evaluation, out of the training time."""
        if self.plan.devices.device.type != "cpu":
            torch.accelerator.synchronize()  # Steps that are still queued are training.
        self._stop_watch()
        yield
        self._running_since = time.perf_counter()

    def advance(self, step: int) -> None:
        """Count `step` steps as done."""
        self.steps_done = step
        self._bar.update(self._task, completed=step)

    def train(self, step: int, *, loss: float, grad_norm: float) -> None:
        """Record a training step; its speed is the mean since the last recorded one."""
        self._check()
        if self.run_dir is None:
            return
        self._stop_watch()
        last_step, last_seconds = self._mark
        samples = (step - last_step) * self.plan.config.global_batch_size
        speed = samples / max(self.train_seconds - last_seconds, 1e-9)
        self._mark = step, self.train_seconds
        learning_rate = self.plan.learning_rate_at(step)
        values = {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
        self._record("train", step, {**values, "samples_per_second": speed})
        state = f"loss {loss:.4f}  rate {learning_rate:.2e}  {speed:,.0f} samples/s"
        self._bar.update(self._task, state=state)
        if self._bar.disable:
            self._say("train", step, state)

    def evaluation(self, split: str, step: int, result: Evaluation) -> None:
        """Record the means of an evaluation and the number of samples behind them."""
        self._check()
        loss, best = result.means["loss"], self.progress.best_loss
        if split == "test":
            self.test = result
        elif math.isfinite(loss) and (best is None or loss < best):
            self.progress = replace(self.progress, best_step=step, best_loss=loss)
        if self.run_dir is None:
            return
        self._record(split, step, {**result.means, "samples": result.samples})
        means = "  ".join(f"{name} {value:.4f}" for name, value in result.means.items())
        self._say(split, step, means)

    def saves_at(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step`: by the settings, or as the best so far."""
        is_best = self.progress.best_step == step and self.plan.config.checkpoint_every > 0
        return is_best or self.plan.saves_at(step)

    def checkpoint(self, step: int, state: TrainingState) -> None:
        """Copy the state after `step`, and write it while training goes on."""
        self._check()
        self._stop_watch()
        self.progress = replace(
            self.progress,
            step=step,
            train_seconds=self.train_seconds,
            skipped_steps=self.finite.skipped_steps,
            scaler=state.scaler_state(),
        )
        stopped = self._running_since
        tensors = state.tensors()
        if self.run_dir is not None:
            facts = {**asdict(self.progress), "config": self.plan.config.saved()}
            with self.explained():
                self._writer.write(step, tensors, facts)
        self._running_since = time.perf_counter()
        self.checkpoint_seconds += self._running_since - stopped

    def _check(self) -> None:
        """Stop where a step was not finite, or the last checkpoint has failed."""
        with self.explained():
            step = self.finite.first_step()
            if step is not None:
                raise RunError(
                    f"step {step}: the loss or its gradient is not finite, and would be again; "
                    "try --skip-nonfinite, or a lower --learning-rate with --allow-changes"
                )
            if self.run_dir is not None:
                self._writer.check()

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Add to an error which checkpoint there is, and how the run goes on from it."""
        try:
            yield
        except (RunError, OSError) as error:
            if self.run_dir is None:
                raise
            reason = (
                error.args[0]
                if isinstance(error, RunError)
                else f"{error.filename or self.run_dir}: {error.strerror or error}"
            )
            raise RunError(f"{reason}. {how_to_go_on(self.run_dir, self.plan.devices)}") from error

    def _stop_watch(self) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._running_since
        self._running_since = now

    def _record(self, split: str, step: int, values: Mapping[str, float]) -> None:
        assert self.run_dir is not None
        epoch = (step - 1) // self.plan.steps_per_epoch
        with self.explained():
            append_metrics(self.run_dir, {"split": split, "step": step, "epoch": epoch, **values})
        self.tracker.log({f"{split}/{name}": value for name, value in values.items()}, step)

    def _say(self, split: str, step: int, text: str) -> None:
        total = str(self.plan.total_steps)
        self.console.print(f"step {step:>{len(total)}}/{total}  {split:<10}  {text}")
