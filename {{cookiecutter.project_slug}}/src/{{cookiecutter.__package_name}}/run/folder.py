"""The folder of a run: chosen, locked, opened and released; one run at a time writes to it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from filelock import FileLock
from torch import nn

from ..checkpoint.atomic import write_atomically
from ..checkpoint.data_info import DATA_FILE, check_same_data, save_data_info
from ..checkpoint.progress import Progress
from ..checkpoint.resume import changes_allowed, find_start, resume_command
from ..checkpoint.store import (
    checkpoint_folder,
    remove_unfinished,
    rename_corrupted,
    saved_steps,
    try_checkpoint,
)
from ..checkpoint.weights import WEIGHTS_FILE
from ..distributed.collectives import broadcast_from_rank_0, gather_from_ranks
from ..distributed.devices import Devices
from ..distributed.failures import is_of_communication
from ..distributed.peers import PEERS
from ..settings.config_file import CONFIG_FILE, as_yaml
from ..settings.errors import RunError, SettingError
from ..settings.run_config import START_FOLDER, RunConfig
from .agreement import check_agreement, check_weights
from .environment import ENVIRONMENT_FILE, describe_machine, write_environment
from .metrics_file import METRICS_FILE, truncate_metrics
from .run_dir import LOCK_FILE, check_run_dir, lock_run_dir, next_free

SUMMARY_FILE = "summary.json"
PICTURES_FOLDER = "pictures"


class RunFolder:
    """Where a run writes, and the checkpoint that it resumes from.

    The constructor chooses and checks the folder on rank 0, before there is a process group.
    `broadcast_start` sends path and progress to the other ranks. As a context manager it locks,
    opens and unlocks the folder. Only rank 0 reads, locks and writes.
    """

    def __init__(self, config: RunConfig, devices: Devices) -> None:
        """Choose the folder, and the checkpoint if the run is to be resumed.

        Changes nothing on disk, except to lock a run that exists.

        Raises:
            SettingError: the folder cannot be written, is in use or is not a run folder; or no
                checkpoint fits.
        """
        now = datetime.now(UTC)
        self.path = config.run_dir or START_FOLDER / "runs" / f"{now:%Y-%m-%d_%H-%M-%S}"
        self.start = Progress()
        """Progress of the checkpoint that the run resumes from; on other ranks once shared."""

        self._config = config
        self._devices = devices
        self.info: dict[str, Any] = {}
        self._machines: list[dict[str, Any]] = []
        self._lock: FileLock | None = None
        if not devices.is_main_process:
            return
        if config.run_dir is None and self.path.exists():
            self.path = next_free(self.path)
        check_run_dir(self.path, config)
        if config.resume != "never" and (self.path / CONFIG_FILE).exists():
            self._lock = lock_run_dir(self.path)
            try:
                self.start = find_start(self.path, config)
            except SettingError:
                self.release()
                raise

    @property
    def checkpoint(self) -> Path | None:
        """The checkpoint that the run resumes from, None in a new run."""
        return checkpoint_folder(self.path, self.start.step) if self.start.step else None

    def broadcast_start(
        self, num_train_samples: int, info: dict[str, Any], model: nn.Module
    ) -> Progress:
        """Return the progress that the run starts from, on every rank; all ranks call it.

        Args:
            num_train_samples: Size of the training set.
            info: What the model knows of the data, saved with the run.
            model: The new model, of which ranks compare some weights.

        Raises:
            SettingError: the checkpoint is of other data, or a rank has other settings, code,
                versions, data or weights than rank 0.
        """
        check_agreement(self._config, info, num_train_samples)
        check_weights(model)
        self.path, self.start = broadcast_from_rank_0((self.path, self.start))
        self.check_data(num_train_samples, info)
        self.info = info
        if self._devices.world_size > 1:
            ranks = gather_from_ranks(describe_machine())
            self._machines = list({machine["host"]: machine for machine in ranks}.values())
        return self.start

    def check_data(self, num_train_samples: int, info: dict[str, Any]) -> None:
        """Check that the checkpoint was made with this data, as `check_same_data` does."""
        with changes_allowed(self._config, prints=self._devices.is_main_process):
            check_same_data(self.start, num_train_samples, info)

    def __enter__(self) -> Self:
        is_new = not (self.path / CONFIG_FILE).exists()
        try:
            if self._devices.is_main_process:
                self._open()
        except OSError as error:
            if is_new:  # It must not count as a run.
                for name in (CONFIG_FILE, DATA_FILE, METRICS_FILE, ENVIRONMENT_FILE):
                    (self.path / name).unlink(missing_ok=True)
            raise SettingError(
                f"run_dir {self.path} cannot be written: {error.strerror}"
            ) from error
        return self

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        self.release()
        if isinstance(error, RunError) or is_of_communication(error):
            what = str(error) if isinstance(error, RunError) else PEERS.explain(error)
            raise RunError(f"{what}. {self.resume_command()}") from error

    def release(self) -> None:
        """Unlock the folder."""
        if self._lock is not None:
            self._lock.release()

    def resume_command(self) -> str:
        """Return, as one line, the latest checkpoint and the command that resumes from it."""
        is_here = self._devices.is_main_process or (self.path / CONFIG_FILE).exists()
        if PEERS.hosts and not is_here:
            return f"The checkpoints are in {self.path} on {PEERS.hosts[0]}"
        return resume_command(self.path, self._devices)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Turn a failed write into a `RunError` that names the file."""
        try:
            yield
        except OSError as error:
            raise RunError(f"{error.filename or self.path}: {error.strerror or error}") from error

    def _open(self) -> None:
        """Lock the folder, write the settings, and remove partial files and earlier results."""
        if self._lock is None:
            self._lock = self._lock_new()
        try_checkpoint(self.path)
        # config.yaml first: it marks the folder as a run, which can be resumed from here on.
        write_atomically(self.path / CONFIG_FILE, as_yaml(self._config))
        save_data_info(self.path, self.info)
        remove_unfinished(self.path)
        for step in saved_steps(self.path):
            if step > self.start.step:  # Later than the latest valid one: corrupted.
                rename_corrupted(checkpoint_folder(self.path, step))
        # Results that this run wrote when it last ended.
        for name in (SUMMARY_FILE, WEIGHTS_FILE):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / PICTURES_FOLDER, ignore_errors=True)
        truncate_metrics(self.path, self.start.step)
        write_environment(self.path, self._machines)

    def _lock_new(self) -> FileLock:
        """Return the lock of a folder that was free when it was chosen."""
        try:
            lock = lock_run_dir(self.path)
            check_run_dir(self.path, self._config)
            if (self.path / CONFIG_FILE).exists():
                raise SettingError(
                    f"run_dir {self.path} was taken by another run just now; start again"
                )
        except SettingError:
            if self._config.run_dir is not None or not (self.path / LOCK_FILE).exists():
                raise
            # Two runs that start in the same second choose the same name.
            self.path = next_free(self.path)
            return self._lock_new()
        return lock
