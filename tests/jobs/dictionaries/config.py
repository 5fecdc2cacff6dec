"""Settings of this job: one of its own."""

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge

from .settings.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of one training run."""

    learning_rate: Annotated[float, Ge(0)] = 0.01
    """Peak learning rate."""

    warmup_steps: Annotated[int, Ge(0)] = 5
    """Optimizer steps of linear warm-up."""

    weight_decay: Annotated[float, Ge(0)] = 0.0
    """Weight decay."""

    width: Annotated[int, Ge(1)] = 24
    """Hidden units."""
