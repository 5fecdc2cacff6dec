from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from my_run.settings.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    learning_rate: Annotated[float, Ge(0)] = 0.03
    """Peak learning rate."""

    warmup_steps: Annotated[int, Ge(0)] = 20
    """Optimizer steps of linear warm-up; 0 starts at the peak."""

    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Weight decay of matrices; 0 is off."""

    files: tuple[Path, ...] = ()
    """Nothing reads them."""

    epochs: Annotated[int, Ge(1)] = 40
    """Passes over the training set."""

    eval_every: Annotated[int, Ge(0)] = 38
    """Optimizer steps between validations."""

    checkpoint_every: Annotated[int, Ge(0)] = 38
    """Optimizer steps between checkpoints."""
