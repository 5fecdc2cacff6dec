"""The settings that every run has, whatever it trains; `config.py` adds those of this project."""

from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from annotated_types import Ge, Lt

from .batch_sizes import gradient_accumulation_steps
from .bounds import check_bounds
from .errors import SettingError
from .values import as_plain, map_leaves

Placement = Literal["auto", "cpu", "single", "data_parallel", "ddp", "fsdp2"]
Precision = Literal["no", "bf16", "fp16"]
Resume = Literal["never", "auto", "must"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]

# A function of the user may change the current folder.
START_FOLDER = Path.cwd()
JOIN_SECONDS = 120
# Not in config.yaml: they only say where the run is stored and how it is started.
NOT_SAVED = (
    *("run_dir", "resume", "allow_changes", "join_seconds", "profile", "plan_only"),
    "num_processes",
)


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """Settings of one training run."""

    run_dir: Path | None = None
    """Output folder of the run; None is `runs/<start time in UTC>`."""

    resume: Resume = "never"
    """Whether to resume the run in run_dir: never; auto, if there is one; must, or exit."""

    allow_changes: bool = False
    """Resume even if settings differ from the checkpoint's; later steps use the new settings."""

    seed: Annotated[int, Ge(0), Lt(2**63)] = 0
    """Random seed of the initial weights, sample order, augmentation and dropout."""

    epochs: Annotated[int, Ge(1)] = 10
    """Passes over the training set; each is a whole number of optimizer steps."""

    max_steps: Annotated[int | None, Ge(1)] = None
    """Total optimizer steps; overrides epochs. None uses epochs."""

    global_batch_size: Annotated[int, Ge(1)] = 64
    """Samples per optimizer step, over all devices and accumulation steps."""

    micro_batch_size: Annotated[int, Ge(1)] = 8
    """Samples per forward pass on one device; gradient accumulation is derived from it."""

    eval_batch_size: Annotated[int | None, Ge(1)] = None
    """Samples per forward pass of an evaluation; None is micro_batch_size."""

    max_grad_norm: Annotated[float, Ge(0)] = 1.0
    """Clip the gradient of a step to this L2 norm; 0 is off (the norm is still logged)."""

    ema_decay: Annotated[float, Ge(0), Lt(1)] = 0.0
    """Evaluate and keep an exponential moving average of the weights, such as 0.999; 0 is off."""

    placement: Placement = "auto"
    """Required devices and strategy; auto uses what the launcher and the machine offer."""

    exact: bool = True
    """Sum gradients in a fixed order: the same bits on 1, 2, 4, ... processes."""

    mixed_precision: Precision = "no"
    """Autocast dtype of the forward pass: no is float32; fp16 needs a GPU."""

    compile: bool = False
    """Use torch.compile: slower first step, then faster on a GPU; agrees to rounding error."""

    threads: Annotated[int | None, Ge(1)] = None
    """CPU threads of each process, which the bits depend on; None is 1 if exact, else PyTorch's."""

    num_workers: Annotated[int, Ge(0)] = 0
    """DataLoader worker processes per training process; 0 loads in the training process."""

    log_every: Annotated[int, Ge(1)] = 10
    """Optimizer steps between training lines in metrics.jsonl."""

    eval_every: Annotated[int, Ge(0)] = 100
    """Optimizer steps between validations; 0 validates after the last step only."""

    checkpoint_every: Annotated[int, Ge(0)] = 100
    """Optimizer steps between checkpoints; 0 saves only when a signal stops the run."""

    patience: Annotated[int, Ge(0)] = 0
    """Stop after this many validations in a row without a better result; 0 is off."""

    keep_checkpoints: Annotated[int, Ge(0)] = 2
    """Latest checkpoints to keep, in addition to the best one; 0 keeps all."""

    skip_nonfinite: bool = False
    """Skip and count steps whose loss or gradient is NaN or inf; off stops the run.

    The fp16 loss scaler skips overflowing steps in any case; those are not counted.
    """

    join_seconds: Annotated[int, Ge(1)] = JOIN_SECONDS
    """Seconds to wait until all processes of the run have started."""

    stop_exit_code: Annotated[int, Ge(0), Lt(256)] = 0
    """Exit code of a run that a signal stopped with a checkpoint, for a job script to requeue."""

    tracker: Tracker = "tensorboard"
    """Where metrics go besides metrics.jsonl; wandb, mlflow and trackio are extras to install."""

    profile: bool = False
    """Record three of the first steps in trace.json, and print the dearest operations."""

    plan_only: Annotated[bool, tyro.conf.arg(name="plan")] = False
    """Print the plan (devices, batch arithmetic, steps) and exit."""

    def __post_init__(self) -> None:
        for field in fields(self):
            # Relative to where the command is typed; a resumed run may start elsewhere.
            value = map_leaves(partial(_checked, field.name), getattr(self, field.name))
            object.__setattr__(self, field.name, value)
        check_bounds(self)
        if self.resume != "never" and self.run_dir is None:
            raise SettingError(f"resume {self.resume} needs a run folder; try --run-dir runs/NAME")
        self.gradient_accumulation_steps(data_parallel_size=1)

    def gradient_accumulation_steps(self, data_parallel_size: int) -> int:
        """Return the forward passes per optimizer step on each of `data_parallel_size` devices.

        Raises:
            SettingError: the devices cannot share `global_batch_size` evenly.
        """
        return gradient_accumulation_steps(
            self.global_batch_size, self.micro_batch_size, data_parallel_size
        )

    @property
    def num_micro_batches(self) -> int:
        """Micro-batches per optimizer step, over all devices."""
        return self.gradient_accumulation_steps(data_parallel_size=1)

    def saved(self) -> dict[str, Any]:
        """Return the settings as `config.yaml` holds them: all but those in `NOT_SAVED`."""
        return {name: value for name, value in as_plain(self).items() if name not in NOT_SAVED}


def _checked(name: str, value: Any) -> Any:
    """Return a path as absolute, and any other value as it is.

    Raises:
        SettingError: files that are written as UTF-8 could not hold it.
    """
    try:
        str(value).encode()
    except UnicodeEncodeError:
        raise SettingError(
            f"{name} ({str(value)!a}) is not valid UTF-8; try another name, or LC_ALL=C.UTF-8"
        ) from None
    return START_FOLDER / value if isinstance(value, Path) else value
