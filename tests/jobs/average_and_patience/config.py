"""The digits with averaged weights and early stopping."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from .settings.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of one training run."""

    data_dir: Path | None = None
    """Folder of images; None is the digits."""

    image_size: int | None = None
    """Pixels of images in a folder."""

    learning_rate: Annotated[float, Ge(0)] = 0.03
    """Peak learning rate."""

    warmup_steps: Annotated[int, Ge(0)] = 20
    """Optimizer steps of linear warm-up."""

    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Weight decay."""

    ema_decay: float = 0.9
    """Decay of the average."""

    patience: int = 1
    """Validations without a better one."""
