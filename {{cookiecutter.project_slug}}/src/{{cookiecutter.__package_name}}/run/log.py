"""The log of a run: lines or a progress bar, `metrics.jsonl` and the tracker."""

from collections.abc import Mapping
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from ..batches.evaluation import Evaluation
from ..batches.plan import Plan
from .folder import RunFolder
from .metrics_file import append_metrics
from .speed import Speed
from .stopwatch import Stopwatch
from .tables import shown
from .trackers import Tracker
from .trial import Trial


class RunLog:
    """Records steps and evaluations on rank 0; the methods do nothing on other ranks.

    On a terminal there is a progress bar; elsewhere each logged step is a line.
    """

    def __init__(
        self, plan: Plan, folder: RunFolder, stopwatch: Stopwatch, trial: Trial, items: str
    ) -> None:
        self.plan = plan
        self.folder = folder
        self.speed = Speed(plan, stopwatch, trial, items)
        self.is_main_process = plan.devices.is_main_process
        self.tracker = Tracker(
            plan.config,
            folder.path,
            is_main_process=self.is_main_process,
            first_step=plan.start_step + 1,
        )
        self.console = Console(highlight=False)
        self._bar = Progress(
            TextColumn("step"),
            MofNCompleteColumn(),
            BarColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=self.console,
            transient=True,
            disable=not (self.is_main_process and self._can_animate()),
        )
        self._task = self._bar.add_task(
            "train", total=plan.total_steps, completed=plan.start_step, state=""
        )

    def _can_animate(self) -> bool:
        """Return whether a printed line can be replaced; FORCE_COLOR makes no terminal."""
        return self.console.file.isatty() and not self.console.is_dumb_terminal

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.close()

    def close(self) -> None:
        """Remove the progress bar and flush the tracker; may be called twice."""
        self._bar.stop()
        self.tracker.finish()

    def advance(self, step: int) -> None:
        """Show `step` steps as done."""
        if not self._bar.disable:
            self._bar.update(self._task, completed=step)

    def training(self, step: int, values: Mapping[str, float], items: float) -> None:
        """Record a training step; its speed is the mean since the last one that was recorded.

        Args:
            step: Optimizer step.
            values: Loss, gradient norm and learning rate.
            items: Number of items in the step.
        """
        if not self.is_main_process:
            return
        speeds = self.speed.since_last(step, items)
        self._record("train", step, {**values, **speeds})
        state = f"loss {shown(values['loss'])}  lr {values['learning_rate']:.2e}"
        state += f"  {speeds[self.speed.name]:,.0f} {self.speed.items}/s"
        self._bar.update(self._task, state=state)
        if self._bar.disable:
            self._print("train", step, state)

    def evaluation(self, split: str, step: int, evaluation: Evaluation) -> None:
        """Record the results of an evaluation, and the number of samples they are from."""
        results = evaluation.results
        self._record(split, step, {**results, "samples": evaluation.num_samples})
        text = "  ".join(f"{name} {shown(value)}" for name, value in results.items())
        self._print(split, step, text)

    def _record(self, split: str, step: int, values: Mapping[str, float]) -> None:
        if not self.is_main_process:
            return
        epoch = (step - 1) // self.plan.steps_per_epoch
        with self.folder.writing():
            line = {"split": split, "step": step, "epoch": epoch, **values}
            append_metrics(self.folder.path, line)
        self.tracker.log({f"{split}/{name}": value for name, value in values.items()}, step)

    def _print(self, split: str, step: int, text: str) -> None:
        if self.is_main_process:
            total = str(self.plan.total_steps)
            self.console.print(
                f"step {step:>{len(total)}}/{total}  {split:<10}  {text}",
                markup=False,
                soft_wrap=True,
            )
