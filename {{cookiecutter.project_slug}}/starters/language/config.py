"""This project's settings and their defaults.

A field is a flag, a line of `config.yaml`, and an attribute of the `config` that the functions of
`data.py`, `model.py` and `optimizer.py` get; a path becomes absolute. The settings of every run are
in `settings/run_config.py`: repeat a field to change its default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge

from .settings.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of one training run; the placement decides who computes, not what is computed."""

    data_file: tuple[Path, ...] = ()
    """Text files to train on, one or several; none is the built-in English text."""

    size: Literal["1M", "10M", "30M", "124M"] = "1M"
    """Parameters of the GPT."""

    block_size: Annotated[int, Ge(2)] = 128
    """Bytes per sample, which is the longest context."""

    learning_rate: Annotated[float, Ge(0)] = 6e-3
    """Peak learning rate; warm-up is linear, decay to zero too. Try 6e-4 for 124M."""

    warmup_steps: Annotated[int, Ge(0)] = 20
    """Optimizer steps of linear warm-up; 0 starts at the peak."""

    weight_decay: Annotated[float, Ge(0)] = 0.1
    """Weight decay of matrices, not of norms; 0 is off."""

    epochs: Annotated[int, Ge(1)] = 2
    """Passes over the training set; each is a whole number of optimizer steps."""

    global_batch_size: Annotated[int, Ge(1)] = 16
    """Samples per optimizer step, over all devices and accumulation steps."""

    micro_batch_size: Annotated[int, Ge(1)] = 2
    """Samples per forward pass on one device; gradient accumulation is derived from it."""

    eval_every: Annotated[int, Ge(0)] = 100
    """Optimizer steps between validations; 0 validates after the last step only."""

    checkpoint_every: Annotated[int, Ge(0)] = 100
    """Optimizer steps between checkpoints; 0 saves only when a signal stops the run."""
