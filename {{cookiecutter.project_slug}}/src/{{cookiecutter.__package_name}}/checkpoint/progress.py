"""The progress of a run, as the manifest of a checkpoint holds it."""

from dataclasses import dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What the manifest of a checkpoint says in addition to settings and files."""

    step: int = 0
    """Optimizer steps done."""

    train_seconds: float = 0.0
    skipped_steps: int = 0
    """Steps skipped because the loss or the gradient was NaN or inf."""

    best_step: int | None = None
    best_loss: float | None = None
    """The lowest validation loss so far, and the step after which it was measured."""

    scaler: dict[str, Any] | None = None
    """State of the fp16 loss scaler."""

    num_train_samples: int = 0
    strategy: str = ""
    world_size: int = 1
    exact: bool = False
    """Training-set size, strategy, world size and exactness of the steps since the last resume."""


def progress_in(manifest: dict[str, Any]) -> Progress:
    """Return the progress that a manifest holds."""
    names = [field.name for field in fields(Progress)]
    return Progress(**{name: manifest[name] for name in names if name in manifest})
