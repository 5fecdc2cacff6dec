"""This project's settings and their defaults.

A field is a flag, a line of `config.yaml`, and an attribute of the `config` that the functions of
`data.py`, `model.py` and `optimizer.py` get; a path becomes absolute. The settings of every run are
in `settings/run_config.py`: repeat a field to change its default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from .settings.errors import SettingError
from .settings.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of one training run; the placement decides who computes, not what is computed."""

    data_file: Path | None = None
    """Table to train on, .csv or .parquet; None is scikit-learn's breast cancer data."""

    target: str | None = None
    """Column of data_file to predict."""

    task: Literal["auto", "classification", "regression"] = "auto"
    """What to predict; auto: classes if the target is text or at most 20 whole numbers."""

    ignore_columns: tuple[str, ...] = ()
    """Columns of data_file that the model must not see, such as identifiers."""

    learning_rate: Annotated[float, Ge(0)] = 0.005
    """Peak learning rate; warm-up is linear, decay to zero follows a cosine."""

    warmup_steps: Annotated[int, Ge(0)] = 20
    """Optimizer steps of linear warm-up; 0 starts at the peak."""

    weight_decay: Annotated[float, Ge(0)] = 0.1
    """Weight decay of matrices and embeddings, not of biases and norms; 0 is off."""

    epochs: Annotated[int, Ge(1)] = 40
    """Passes over the training set; each is a whole number of optimizer steps."""

    eval_every: Annotated[int, Ge(0)] = 25
    """Optimizer steps between validations; 0 validates after the last step only."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.data_file and not self.target:
            raise SettingError("data_file needs the column to predict; try --target NAME")
        if not self.data_file and (self.target or self.ignore_columns):
            raise SettingError("target and ignore_columns need a table; try --data-file FILE.csv")
        if self.target in self.ignore_columns:
            raise SettingError(f"target ({self.target}) is among ignore_columns; leave it out")
