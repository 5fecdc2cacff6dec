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
    best_value: float | None = None
    """The best validation result so far, and the step after which it was measured."""

    validations_since_best: int = 0

    scaler: dict[str, Any] | None = None
    """State of the fp16 loss scaler."""

    data_info: dict[str, Any] | None = None
    """What `describe` of `data.py` returned."""

    num_train_samples: int = 0
    strategy: str = ""
    world_size: int = 1
    exact: bool = False
    """Training-set size, strategy, world size and exactness of the steps since the last resume."""

    def has_ended(self, patience: int) -> bool:
        """Return whether the run was stopped early, by its validations."""
        return 0 < patience <= self.validations_since_best


def progress_in(manifest: dict[str, Any]) -> Progress:
    """Return the progress that a manifest holds."""
    names = [field.name for field in fields(Progress)]
    if "best_loss" in manifest:  # Of an earlier version.
        manifest = {"best_value": manifest["best_loss"], **manifest}
    return Progress(**{name: manifest[name] for name in names if name in manifest})
