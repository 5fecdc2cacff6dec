"""What a run says while it goes and what it leaves behind; rank 0 only."""

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .metrics import Evaluation
from .plan import Plan
from .run_folder import start_run_folder
from .trackers import Tracker

METRICS_FILE = "metrics.jsonl"


class Report(AbstractContextManager["Report"]):
    """The run folder, lines, a progress bar, `metrics.jsonl` and the tracker; silent but on rank 0.

    The bar is for terminals; elsewhere each logged step is a line.
    """

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.run_dir = start_run_folder(plan.config) if plan.devices.rank == 0 else None
        self.tracker = Tracker(plan.config, self.run_dir)
        self.console = Console(highlight=False)
        self.train_seconds = 0.0
        self._mark = (0, 0.0)  # step and train_seconds of the last training line
        self._running_since = time.perf_counter()
        self._bar = Progress(
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
        self._task = self._bar.add_task("train", total=plan.total_steps, state="")

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

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Keep what is not training, such as an evaluation, out of the training time."""
        self._stop_watch()
        yield
        self._running_since = time.perf_counter()

    def advance(self, step: int) -> None:
        """Move the bar to `step` completed steps."""
        self._bar.update(self._task, completed=step)

    def train(self, step: int, *, loss: float, grad_norm: float) -> None:
        """Record a training step; its speed is the mean since the last recorded one."""
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
        if self.run_dir is None:
            return
        self._record(split, step, {**result.means, "samples": result.samples})
        means = "  ".join(f"{name} {value:.4f}" for name, value in result.means.items())
        self._say(split, step, means)

    def _stop_watch(self) -> None:
        now = time.perf_counter()
        self.train_seconds += now - self._running_since
        self._running_since = now

    def _record(self, split: str, step: int, values: Mapping[str, float]) -> None:
        assert self.run_dir is not None
        epoch = (step - 1) // self.plan.steps_per_epoch
        line = json.dumps({"split": split, "step": step, "epoch": epoch, **values})
        with (self.run_dir / METRICS_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")
        self.tracker.log({f"{split}/{name}": value for name, value in values.items()}, step)

    def _say(self, split: str, step: int, text: str) -> None:
        total = str(self.plan.total_steps)
        self.console.print(f"step {step:>{len(total)}}/{total}  {split:<10}  {text}")


def read_metrics(run_dir: Path) -> list[dict[str, Any]]:
    """Return the lines of a run's `metrics.jsonl`."""
    text = (run_dir / METRICS_FILE).read_text(encoding="utf-8")
    return [json.loads(line) for line in text.splitlines()]
