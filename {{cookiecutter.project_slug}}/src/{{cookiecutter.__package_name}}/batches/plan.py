"""The arithmetic of a run: its steps, the forward passes of each, and what is due after them."""

from dataclasses import dataclass

from ..distributed.devices import Devices
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .seeds import seed_forward


@dataclass(frozen=True)
class Plan:
    """The steps and forward passes of a run, from its settings, devices and training-set size."""

    config: RunConfig
    devices: Devices
    num_train_samples: int
    steps_per_epoch: int
    total_steps: int
    start_step: int
    """Steps already done: those of the checkpoint that a run resumes from, 0 in a new run."""

    has_ended: bool = False
    """Whether that checkpoint is of a run that was stopped early: no step is left then."""

    @property
    def steps(self) -> range:
        """The optimizer steps that are left, counted from 1."""
        last = self.start_step if self.has_ended else self.total_steps
        return range(self.start_step + 1, last + 1)

    @property
    def gradient_accumulation_steps(self) -> int:
        """Forward passes of one optimizer step on this rank."""
        return self.config.gradient_accumulation_steps(self.devices.data_parallel_size)

    @property
    def samples_per_pass(self) -> int:
        """Samples of one forward pass of this process."""
        return self.config.micro_batch_size * self.devices.devices_per_process

    @property
    def passes_per_step(self) -> int:
        """Forward passes of one optimizer step over all ranks."""
        return self.devices.world_size * self.gradient_accumulation_steps

    @property
    def passes(self) -> range:
        """Indices of this rank's forward passes within a step."""
        first = self.devices.rank * self.gradient_accumulation_steps
        return range(first, first + self.gradient_accumulation_steps)

    def micro_batches(self, k: int) -> range:
        """Return those of forward pass k of a step: one, or one per GPU of DataParallel."""
        count = self.devices.devices_per_process
        return range(k * count, (k + 1) * count)

    def seed_forward(self, step: int, k: int) -> None:
        """Seed dropout for forward pass k of a step: the same numbers on any placement."""
        seed_forward(self.config.seed, step, self.micro_batches(k))

    def logs_at(self, step: int) -> bool:
        """Return whether a training line is due after `step`: also after the first and the last."""
        return step % self.config.log_every == 0 or step in (1, self.total_steps)

    def validates_at(self, step: int) -> bool:
        """Return whether a validation is due after `step`: always after the last."""
        every = self.config.eval_every
        return bool(every and step % every == 0) or step == self.total_steps

    def saves_at(self, step: int) -> bool:
        """Return whether a checkpoint is due after `step`: also after the last."""
        every = self.config.checkpoint_every
        return bool(every) and (step % every == 0 or step == self.total_steps)

    def syncs_at(self, step: int) -> bool:
        """Return whether any of the three is due: the loop then syncs with the device anyway."""
        return self.logs_at(step) or self.validates_at(step) or self.saves_at(step)


def make_plan(
    config: RunConfig,
    devices: Devices,
    num_train_samples: int,
    start_step: int = 0,
    has_ended: bool = False,
) -> Plan:
    """Return the plan of a run that has already done `start_step` steps, and maybe ended there.

    Raises:
        SettingError: the training set is smaller than a global batch, or the run is already past
            its last step.
    """
    # Whole global batches only; each epoch leaves out other samples, because its order is another.
    per_epoch = num_train_samples // config.global_batch_size
    if not per_epoch:
        raise SettingError(
            f"global_batch_size ({config.global_batch_size}) is more than the {num_train_samples} "
            f"training samples; try {_sizes_that_fit(config, devices, num_train_samples)}"
        )
    total_steps = config.max_steps or config.epochs * per_epoch
    if start_step > total_steps:
        raise SettingError(
            f"the checkpoint is at step {start_step} and the run ends at step {total_steps}; try "
            f"--max-steps {start_step} or more"
        )
    return Plan(config, devices, num_train_samples, per_epoch, total_steps, start_step, has_ended)


def _sizes_that_fit(config: RunConfig, devices: Devices, num_train_samples: int) -> str:
    """Return flags of the largest global batch that the training set has."""
    samples_per_pass = config.micro_batch_size * devices.data_parallel_size
    largest = num_train_samples // samples_per_pass * samples_per_pass
    if not largest:
        largest = num_train_samples // devices.data_parallel_size * devices.data_parallel_size
    flags = f"--global-batch-size {largest}"
    if largest < samples_per_pass:
        flags += f" --micro-batch-size {largest // devices.data_parallel_size}"
    return flags
