"""The arithmetic of a run, done and shown before it starts."""

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn

from .config import TrainConfig
from .data import load_split
from .devices import Devices, program_name
from .errors import SettingError
from .model import Classifier
from .resume import Progress
from .sampling import own_passes, steps_per_epoch
from .schedule import learning_rate_at
from .tables import print_table


@dataclass(frozen=True)
class Plan:
    """How the settings come out on these devices and this data."""

    config: TrainConfig
    devices: Devices
    num_train_samples: int
    gradient_accumulation_steps: int
    steps_per_epoch: int
    total_steps: int
    start: Progress
    """Where the run goes on; step 0 of a new one."""

    @property
    def steps(self) -> range:
        """The optimizer steps that are left, counted from 1."""
        return range(self.start.step + 1, self.total_steps + 1)

    @property
    def passes_per_step(self) -> int:
        """Forward passes of one optimizer step, over all ranks."""
        num_micro_batches = self.config.global_batch_size // self.config.micro_batch_size
        return num_micro_batches // self.devices.devices_per_process

    @property
    def own_passes(self) -> range:
        """The first micro-batch of each forward pass of this rank."""
        return own_passes(
            self.config.global_batch_size // self.config.micro_batch_size,
            rank=self.devices.rank,
            world_size=self.devices.world_size,
            devices_per_process=self.devices.devices_per_process,
        )

    def learning_rate_at(self, step: int) -> float:
        """Return the learning rate of optimizer step `step`, counted from 1."""
        return learning_rate_at(
            step,
            peak=self.config.learning_rate,
            warmup_steps=self.config.warmup_steps,
            total_steps=self.total_steps,
        )

    def logs_at(self, step: int) -> bool:
        """Tell whether a training line is due after `step`; first and last always have one."""
        return step % self.config.log_every == 0 or step in (1, self.total_steps)

    def validates_at(self, step: int) -> bool:
        """Tell whether a validation is due after `step`; the last step always has one."""
        every = self.config.eval_every
        return bool(every and step % every == 0) or step == self.total_steps

    def saves_at(self, step: int) -> bool:
        """Tell whether a checkpoint is due after `step`; the last step always has one."""
        every = self.config.checkpoint_every
        return bool(every) and (step % every == 0 or step == self.total_steps)

    def show(self, model: nn.Module) -> None:
        """Print the plan on rank 0."""
        if self.devices.rank == 0:
            print_table("Plan", self.rows(model))

    def rows(self, model: nn.Module) -> dict[str, str]:
        """Return the plan as names and values, to print."""
        num_parameters = sum(parameter.numel() for parameter in model.parameters())
        config, devices = self.config, self.devices
        accumulation = self.gradient_accumulation_steps
        used = self.steps_per_epoch * config.global_batch_size
        rest = self.num_train_samples - used
        epochs = self.total_steps / self.steps_per_epoch
        precision = (
            "float32" if config.mixed_precision == "no" else f"{config.mixed_precision} autocast"
        )
        return {
            "Placement": self._placement(),
            "Precision": precision + (", compiled" if config.compile else ""),
            "Model": f"{num_parameters:,} parameters",
            "Exact": self._exact(),
            "Batch": f"{config.global_batch_size} samples per optimizer step = "
            f"{config.micro_batch_size} per forward pass x {devices.data_parallel_size} "
            f"replica{'s' * (devices.data_parallel_size > 1)} x {accumulation} "
            f"accumulation step{'s' * (accumulation > 1)}",
            "Epoch": f"{self.steps_per_epoch} steps, {used} of {self.num_train_samples} samples"
            + (f"; other {rest} are left out each time" if rest else ""),
            "Steps": f"{self.total_steps} optimizer steps ({epochs:.3g} epochs)",
            "Checkpoints": self._checkpoints(),
            **({"Resumed": self._resumed()} if self.start.step else {}),
        }

    def _checkpoints(self) -> str:
        every, keep = self.config.checkpoint_every, self.config.keep_checkpoints
        if not every:
            return "only where a signal stops the run"
        kept = f"the newest {keep} and the best are kept" if keep else "all are kept"
        return f"every {every} steps and at the best validation; {kept}"

    def _resumed(self) -> str:
        start = self.start
        where = f"after step {start.step}, reached by {start.strategy} on {start.world_size} "
        where += f"process{'es' * (start.world_size > 1)}"
        same_tree = odd_factor(self.devices.world_size) == odd_factor(start.world_size)
        if self.devices.exact and not (start.exact and same_tree):
            where += ", which are not the bits of a run on these processes alone"
        return where

    def _exact(self) -> str:
        if not self.devices.exact:
            reason = f", {self.devices.strategy} cannot be" if self.config.exact else ""
            return f"no{reason}: other placements agree to rounding"
        odd = odd_factor(self.devices.world_size)
        num_micro_batches = self.config.global_batch_size // self.config.micro_batch_size
        sizes = [odd * 2**power for power in range(num_micro_batches.bit_length())]
        same = ", ".join(str(size) for size in sizes if num_micro_batches % size == 0)
        return f"the same to the last bit on {same} processes of this hardware and these versions"

    def _placement(self) -> str:
        devices = self.devices
        processes = f"{devices.world_size} process{'es' * (devices.world_size > 1)}"
        if devices.strategy == "data_parallel":
            processes += f" driving {devices.devices_per_process} devices"
        count = torch.get_num_threads()
        is_cpu = devices.device.type == "cpu"
        threads = f", {count} thread{'s' * (count > 1)} each" if is_cpu else ""
        backend = dist.get_default_backend_for_device(devices.device)
        link = f", {backend}" if devices.world_size > 1 else ""
        advice = ""
        if devices.devices_per_process > 1:
            advice = f"; faster: torchrun --nproc-per-node {devices.devices_per_process} -m "
            advice += program_name()
        return f"{devices.strategy}: {processes} on {devices.device.type}{threads}{link}{advice}"


def odd_factor(number: int) -> int:
    """Return what is left of a positive number once it is halved as often as it can be."""
    return number // (number & -number)


def show_plan(config: TrainConfig, devices: Devices, start: Progress) -> None:
    """Print the plan on rank 0 of a run that goes on from `start`; nothing is started or written.

    Raises:
        SettingError: as `make_plan`.
    """
    num_train_samples = len(load_split("train", augmented=False))
    plan = make_plan(config, devices, num_train_samples=num_train_samples, start=start)
    plan.show(Classifier())


def make_plan(
    config: TrainConfig,
    devices: Devices,
    *,
    num_train_samples: int,
    start: Progress = Progress(),  # noqa: B008 (it is frozen)
) -> Plan:
    """Return the plan of a run that goes on from `start`.

    Raises:
        SettingError: the batch does not divide, there are fewer samples than a batch, or `start`
            was reached with other samples or lies behind the end.
    """
    per_epoch = steps_per_epoch(num_train_samples, config.global_batch_size)
    if not per_epoch:
        samples_per_pass = config.micro_batch_size * devices.data_parallel_size
        largest = num_train_samples // samples_per_pass * samples_per_pass
        if not largest:
            largest = num_train_samples // devices.data_parallel_size * devices.data_parallel_size
        flags = f"--global-batch-size {largest}"
        if largest < samples_per_pass:
            flags += f" --micro-batch-size {largest // devices.data_parallel_size}"
        raise SettingError(
            f"global_batch_size ({config.global_batch_size}) is more than the "
            f"{num_train_samples} training samples; try {flags}"
        )
    total_steps = config.max_steps or config.epochs * per_epoch
    if start.step > total_steps:
        raise SettingError(
            f"the checkpoint is of step {start.step} and the run ends at step {total_steps}; try "
            f"--max-steps {start.step} or more"
        )
    if start.step and start.num_train_samples != num_train_samples and not config.allow_changes:
        raise SettingError(
            f"the training set has {num_train_samples} samples and had {start.num_train_samples} "
            f"up to step {start.step}; bring it back, or try --allow-changes"
        )
    return Plan(
        config=config,
        devices=devices,
        num_train_samples=num_train_samples,
        gradient_accumulation_steps=config.gradient_accumulation_steps(devices.data_parallel_size),
        steps_per_epoch=per_epoch,
        total_steps=total_steps,
        start=start,
    )
