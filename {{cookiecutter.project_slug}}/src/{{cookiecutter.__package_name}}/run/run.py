"""One training run: its folder, log, checkpoints, stopwatch and check for NaN, in one object."""

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any, Literal, Self

from torch import Tensor

from ..batches.evaluation import Evaluation
from ..batches.plan import Plan
from ..checkpoint.checkpoints import Checkpoints
from ..checkpoint.state import TrainingState
from ..distributed.finite import FiniteCheck
from ..exact.own_state import OwnChanges
from ..settings.errors import RunError, SettingError
from .folder import RunFolder
from .fsdp2_checks import calls_checked
from .log import RunLog
from .metrics_file import METRICS_FILE
from .profiling import StepProfiler
from .stopwatch import Stopwatch
from .summary import DrawPictures, draw_safely, print_results, summarize_run, write_results
from .trial import Trial

BestResult = tuple[str, Literal["lowest", "highest"]]


class Run:
    """What the training loop calls in addition to the step itself; all ranks call each method.

    As a context it holds the run folder: open and locked inside, released at the end.
    """

    def __init__(
        self,
        plan: Plan,
        folder: RunFolder,
        state: TrainingState,
        trial: Trial,
        best_result: BestResult,
        items: str,
    ) -> None:
        self.plan, self.folder, self.state = plan, folder, state
        self.trial, self.items = trial, items
        self.best_name, self.best_is = best_result
        self.steps_done = plan.start_step
        self.own_changes = OwnChanges(state.model)
        self.checkpoint_seconds = 0.0
        """Seconds that the loop has waited for checkpoints."""

        self.finite = FiniteCheck(
            plan.devices.device,
            skip_nonfinite=plan.config.skip_nonfinite,
            check_gradients=plan.config.mixed_precision != "fp16",
            skipped_steps=folder.start.skipped_steps,
        )
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        start = self.folder.start
        with ExitStack() as parts:
            parts.enter_context(calls_checked(self.state.model, self.plan, self.trial))
            run_dir = parts.enter_context(self.folder).path
            checkpoints = Checkpoints(
                *(self.plan, start, self.state, run_dir),
                data_info=self.folder.info,
                synced_first=run_dir / METRICS_FILE,
            )
            self.checkpoints = parts.enter_context(checkpoints)
            self.stopwatch = Stopwatch(start.train_seconds, self.plan.devices.device)
            log = RunLog(self.plan, self.folder, self.stopwatch, self.trial, self.items)
            self.log = parts.enter_context(log)
            self.profiler = parts.enter_context(StepProfiler(self.plan, run_dir))
            self.stopwatch.start()
            self._parts = parts.pop_all()
        return self

    def __exit__(self, *error: Any) -> None:
        self._parts.__exit__(*error)

    def advance(self, step: int) -> None:
        """Count `step` as done."""
        self.steps_done = step
        self.log.advance(step)
        self.profiler.step()
        if step == self.plan.start_step + 2:
            self.own_changes.warn(self.plan.devices)

    def check(self) -> None:
        """Stop the run if a step on any rank was not finite, or a checkpoint was not written.

        Raises:
            RunError: with the step, the cause and what to try.
        """
        step = self.finite.first_step()
        if step is not None:
            raise RunError(
                f"step {step}: loss or gradient is NaN or inf; resuming would hit it again; "
                "try --skip-nonfinite, or a lower --learning-rate with --allow-changes"
            )
        self.checkpoints.check()

    def log_training(
        self, step: int, mean_loss: tuple[float, float], grad_norm: Tensor, learning_rate: float
    ) -> None:
        """Log a training step.

        Args:
            step: Optimizer step, from 1.
            mean_loss: Mean over the items of the global batch, and their number.
            grad_norm: (), of the whole gradient before clipping.
            learning_rate: Of this step.
        """
        loss, items = mean_loss
        values = {"loss": loss, "grad_norm": grad_norm.item(), "learning_rate": learning_rate}
        self.log.training(step, values, items)

    def log_evaluation(self, split: str, step: int, evaluation: Evaluation) -> None:
        """Log an evaluation; the best validation makes a checkpoint due."""
        if self.best_name not in evaluation.results:
            raise SettingError(
                f"model.py: summarize returned {', '.join(evaluation.results)} and BEST_RESULT is "
                f"{self.best_name}; return it, or name another"
            )
        self.log.evaluation(split, step, evaluation)
        if split == "validation":
            value = evaluation.results[self.best_name]
            is_highest_best = self.best_is == "highest"
            self.checkpoints.record_validation(step, value, is_highest_best=is_highest_best)

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """Let the model have the averaged weights inside, and stop the watch."""
        with self.stopwatch.paused(), self.state.average.applied():
            yield

    def save(self, step: int) -> None:
        """Save a checkpoint after `step`, which is written while training continues.

        Raises:
            RunError: as `check`.
        """
        self.check()
        seconds = self.stopwatch.seconds
        with self.stopwatch.paused() as pause:
            self.checkpoints.save(
                step, train_seconds=seconds, skipped_steps=self.finite.skipped_steps
            )
        self.checkpoint_seconds += pause.seconds

    def finish(
        self,
        test: Evaluation | None,
        stopped_by: str | None,
        test_set: Any,
        draw_pictures: DrawPictures,
    ) -> None:
        """Write the summary, and the weights and pictures of a run that reached its last step.

        Args:
            test: Evaluation of the test set; None if the run was stopped.
            stopped_by: Name of the signal that stopped it.
            test_set: For the pictures.
            draw_pictures: Saves pictures to a folder; if it fails, a warning is printed.

        Raises:
            RunError: a file could not be written.
        """
        progress = replace(
            self.checkpoints.progress,
            step=self.steps_done,
            train_seconds=self.stopwatch.seconds,
            skipped_steps=self.finite.skipped_steps,
        )
        self.checkpoints.wait()
        weights = self.state.averaged_weights() if test else {}
        if not self.plan.devices.is_main_process:
            return
        summary = summarize_run(
            self.plan,
            progress,
            test,
            best_name=self.best_name,
            stopped_by=stopped_by,
            checkpoint_seconds=self.checkpoint_seconds,
        )
        self.log.close()
        with self.folder.writing():
            write_results(self.folder.path, summary, weights)
        failures = draw_safely(draw_pictures, self.folder, test_set, test)
        print_results(self.folder, summary, test)
        for failure in failures:
            print(f"warning: {failure}", file=sys.stderr)
