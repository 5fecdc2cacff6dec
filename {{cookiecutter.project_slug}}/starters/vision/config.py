"""This project's settings and their defaults.

A field is a flag, a line of `config.yaml`, and an attribute of the `config` that the functions of
`data.py`, `model.py` and `optimizer.py` get; a path becomes absolute. The settings of every run are
in `settings/run_config.py`: repeat a field to change its default.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from .settings.run_config import RunConfig


@dataclass(frozen=True, kw_only=True)
class TrainConfig(RunConfig):
    """Settings of one training run; the placement decides who computes, not what is computed."""

    data_dir: Path | None = None
    """Folder with a subfolder of images for each class; None is scikit-learn's digits."""

    image_size: Annotated[int | None, Ge(4)] = None
    """Height and width in pixels that images of data_dir are resized to; None is 32."""

    learning_rate: Annotated[float, Ge(0)] = 0.1
    """Peak learning rate; warm-up is linear, decay to zero follows a cosine."""

    warmup_steps: Annotated[int, Ge(0)] = 20
    """Optimizer steps of linear warm-up; 0 starts at the peak."""

    weight_decay: Annotated[float, Ge(0)] = 5e-4
    """Weight decay of matrices and convolution kernels, not of biases and norms; 0 is off."""

    epochs: Annotated[int, Ge(1)] = 50
    """Passes over the training set; each is a whole number of optimizer steps."""

    global_batch_size: Annotated[int, Ge(1)] = 256
    """Samples per optimizer step, over all devices and accumulation steps."""

    micro_batch_size: Annotated[int, Ge(1)] = 32
    """Samples per forward pass on one device; gradient accumulation is derived from it."""

    eval_every: Annotated[int, Ge(0)] = 10
    """Optimizer steps between validations; 0 validates after the last step only."""

    checkpoint_every: Annotated[int, Ge(0)] = 10
    """Optimizer steps between checkpoints; 0 saves only when a signal stops the run."""
