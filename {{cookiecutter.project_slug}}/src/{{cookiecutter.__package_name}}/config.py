"""Every setting of a run: one frozen dataclass, on the command line and in `config.yaml`."""

import math
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

import yaml

from .command_line import parse_command_line
from .errors import SettingError
from .files import write_whole

Placement = Literal["auto", "cpu", "single", "data_parallel", "ddp", "fsdp2"]
Precision = Literal["no", "bf16", "fp16"]
Resume = Literal["never", "auto", "must"]
Tracker = Literal["none", "tensorboard", "wandb", "mlflow", "trackio"]

# Where a run lies and how it starts: no part of what the run computes.
NOT_SAVED = ("run_dir", "resume", "allow_changes", "plan", "num_processes")
CONFIG_FILE = "config.yaml"
# How long a collective waits for a rank that is gone, or still writing its report.
PROCESS_GROUP_TIMEOUT_SECONDS = 600


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of one training run; the placement changes who computes, never what is computed."""

    run_dir: Path | None = None
    """Folder of the run; None takes runs/ and the time of the start."""

    resume: Resume = "never"
    """Go on with the run in run_dir: never; auto, if it holds one; must, or refuse to start."""

    allow_changes: bool = False
    """Resume although settings differ from those of the checkpoint: the result is a mixture."""

    seed: int = 0
    """Decides the first weights, the order of the samples, augmentation and dropout."""

    epochs: int = 40
    """Passes over the training samples, each a whole number of optimizer steps."""

    max_steps: int | None = None
    """Optimizer steps of the whole run; wins over epochs. None counts epochs."""

    global_batch_size: int = 64
    """Samples per optimizer step, over all devices and accumulation steps."""

    micro_batch_size: int = 8
    """Samples per forward pass on one device; gradient accumulation follows from it."""

    learning_rate: float = 0.03
    """Peak learning rate of SGD with Nesterov momentum; falls to zero along a cosine."""

    warmup_steps: int = 20
    """Optimizer steps of linear warm-up to the peak; 0 starts at the peak."""

    weight_decay: float = 5e-4
    """Weight decay of matrices and kernels, not of biases and norms; 0 is off."""

    max_grad_norm: float = 1.0
    """L2 norm that a step's gradient is clipped to; 0 does not clip, and still reports it."""

    placement: Placement = "auto"
    """Devices and strategy; auto follows the launcher and takes the accelerator that is there."""

    exact: bool = True
    """The same result to the last bit on 1, 2, 4, ... processes, by ordered sums; see exact.py."""

    mixed_precision: Precision = "no"
    """Type of the forward pass: no is float32; bf16 and fp16 autocast (fp16 on GPUs only)."""

    compile: bool = False
    """Compile the model: a slow first step, then faster ones on a GPU; agrees to rounding."""

    num_workers: int = 0
    """Processes that read data beside each training process; 0 reads in the process itself."""

    log_every: int = 10
    """Optimizer steps between two training lines of metrics.jsonl."""

    eval_every: int = 38
    """Optimizer steps between two validations; 0 validates at the end only."""

    checkpoint_every: int = 38
    """Optimizer steps between two checkpoints; 0 saves only where a signal stops the run."""

    keep_checkpoints: int = 2
    """Newest checkpoints to keep, beside the one of the best validation; 0 keeps all."""

    skip_nonfinite: bool = False
    """Leave out steps whose loss or gradient is not finite, and count them; off stops the run.

    Gradients that overflow in fp16 are left out either way, by its loss scaler, and not counted.
    """

    tracker: Tracker = "tensorboard"
    """Where metrics go besides metrics.jsonl; wandb, mlflow and trackio are extras to install."""

    plan: bool = False
    """Print the plan of the run (devices, batch arithmetic, steps) and stop."""

    def __post_init__(self) -> None:
        at_least = {
            1: ("epochs", "global_batch_size", "micro_batch_size", "log_every"),
            0: ("seed", "warmup_steps", "weight_decay", "max_grad_norm", "num_workers"),
        }
        at_least[0] += ("learning_rate", "eval_every", "checkpoint_every", "keep_checkpoints")
        at_least[1] += ("max_steps",) if self.max_steps is not None else ()
        for least, names in at_least.items():
            for name in names:
                value = getattr(self, name)
                if not value >= least or math.isinf(value):
                    flag = "--" + name.replace("_", "-")
                    raise SettingError(
                        f"{name} ({value}) must be a finite number of at least {least}; try "
                        f"{flag} {getattr(type(self), name) or least}"
                    )
        if self.seed >= 2**63:
            raise SettingError(f"seed ({self.seed}) must be below 2**63; try --seed 0")
        if self.resume != "never" and self.run_dir is None:
            raise SettingError(
                f"resume {self.resume} needs the folder of the run; try --run-dir runs/NAME"
            )
        self.gradient_accumulation_steps(1)

    def gradient_accumulation_steps(self, data_parallel_size: int) -> int:
        """Return the forward passes per optimizer step on each of `data_parallel_size` devices.

        Raises:
            SettingError: the devices cannot share `global_batch_size` evenly.
        """
        samples_per_pass = self.micro_batch_size * data_parallel_size
        steps, remainder = divmod(self.global_batch_size, samples_per_pass)
        if not remainder:
            return steps
        raise SettingError(
            f"global_batch_size ({self.global_batch_size}) must be a multiple of micro_batch_size "
            f"x data_parallel_size ({self.micro_batch_size} x {data_parallel_size} = "
            f"{samples_per_pass}); try {self._sizes_that_divide(data_parallel_size)}"
        )

    def _sizes_that_divide(self, data_parallel_size: int) -> str:
        """Return the nearest flags that would satisfy the rule above."""
        share, uneven = divmod(self.global_batch_size, data_parallel_size)
        samples_per_pass = self.micro_batch_size * data_parallel_size
        below = self.global_batch_size // samples_per_pass * samples_per_pass
        flags = [
            f"--global-batch-size {size}" for size in (below, below + samples_per_pass) if size
        ]
        if share and not uneven:
            divisors = [size for size in range(1, share + 1) if share % size == 0]
            nearest = min(divisors, key=lambda size: abs(size - self.micro_batch_size))
            flags.insert(0, f"--micro-batch-size {nearest}")
        fewer = [
            size
            for size in range(1, data_parallel_size)
            if self.global_batch_size % (self.micro_batch_size * size) == 0
        ]
        same = f"; as it is, it divides over {fewer[-1]} device(s)" if fewer else ""
        return " or ".join(flags) + same

    def saved(self) -> dict[str, Any]:
        """Return what `config.yaml` holds: every setting but where the run lies."""
        return {name: value for name, value in asdict(self).items() if name not in NOT_SAVED}


def save_config(config: TrainConfig, run_dir: Path) -> None:
    """Write the settings as YAML to the run's folder, for `--config FILE`."""
    write_whole(run_dir / CONFIG_FILE, yaml.safe_dump(config.saved(), sort_keys=False))


def load_config(file: Path) -> TrainConfig:
    """Read the settings of a `config.yaml`; what it leaves out has its default.

    Raises:
        SettingError: the file cannot be read, or holds a setting or a value that does not exist.
    """
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"config {file} cannot be read: {reason}") from error
    known = [field.name for field in fields(TrainConfig) if field.name not in NOT_SAVED]
    if not isinstance(values, dict):
        raise SettingError(f"config {file} must be 'name: value' lines, as in a run's config.yaml")
    if unknown := [str(name) for name in values if name not in known]:
        raise SettingError(f"config {file} has unknown settings: {', '.join(unknown)}; see --help")
    # Each value goes through the parser of the command line, so that both have one set of checks.
    flags = [flag for name, value in values.items() for flag in _as_flag(name, value)]
    try:
        return parse_command_line(TrainConfig, flags)
    except SettingError as error:
        raise SettingError(f"config {file}: {error}") from error


def _as_flag(name: str, value: object) -> list[str]:
    flag = name.replace("_", "-")
    if isinstance(getattr(TrainConfig, name), bool) and isinstance(value, bool):
        return [f"--{flag}" if value else f"--no-{flag}"]
    # YAML reads no, which is a mixed_precision, as false.
    return [f"--{flag}", "no" if value is False else str(value)]


def parse_train_config(
    argv: Sequence[str] | None = None, settings: type[TrainConfig] = TrainConfig
) -> TrainConfig:
    """Build the config from the flags; `--config FILE` gives the defaults, flags win over it."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    default = settings()
    for position, argument in enumerate(arguments):
        flag, has_value, file = argument.partition("=")
        if flag == "--config":
            if not has_value and position + 1 == len(arguments):
                raise SettingError("--config needs a file; try --config runs/NAME/config.yaml")
            file = file if has_value else arguments[position + 1]
            del arguments[position : position + (1 if has_value else 2)]
            flags = {text.partition("=")[0].replace("_", "-") for text in arguments}
            if "--config" in flags:
                raise SettingError("--config is there twice; give one file, and flags beside it")
            values = load_config(Path(file)).saved()
            if "--epochs" in flags:
                values["max_steps"] = None  # Which would win over it.
            default = settings(**values)
            break
    description = (
        "Also: --config FILE reads the settings of a run's config.yaml; flags win over it."
    )
    return parse_command_line(settings, arguments, default=default, description=description)
