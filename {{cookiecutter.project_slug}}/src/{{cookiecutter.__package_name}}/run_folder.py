"""The folder of a run: new, or that of a run to go on with; one run at a time writes to it."""

import itertools
import os
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from .checkpoint import checkpoint_folder, remove_unfinished, saved_steps, set_aside
from .config import CONFIG_FILE, TrainConfig, save_config
from .devices import Devices, from_rank_0
from .environment import read_environment, write_environment
from .errors import SettingError
from .files import PART
from .metrics_file import cut_metrics
from .resume import Progress, choose_checkpoint
from .weights import WEIGHTS_FILE

SUMMARY_FILE = "summary.json"
PREDICTIONS_FILE = "predictions.png"
RESULT_FILES = (SUMMARY_FILE, PREDICTIONS_FILE, WEIGHTS_FILE)
LOCK_FILE = ".lock"


class RunFolder:
    """Where a run writes and where it starts from; only rank 0 looks, locks and writes."""

    def __init__(self, config: TrainConfig, devices: Devices) -> None:
        """Look whether a run can be written, and which checkpoint to go on from.

        Changes nothing but the lock on a run that is there already.

        Raises:
            SettingError: the folder cannot be written, is in use, or holds what it should not; or
                there is no checkpoint that fits.
        """
        self.path: Path | None = None
        """The folder, on rank 0."""

        self.resumed: Path | None = None
        """The checkpoint to go on from, on rank 0."""

        self.progress = Progress()
        self._config = config
        self._lock: FileLock | None = None
        if devices.rank != 0:
            return
        self.path = config.run_dir or Path("runs") / f"{datetime.now(UTC):%Y-%m-%d_%H-%M-%S}"
        if config.run_dir is None and self.path.exists():
            self.path = _next_free(self.path)
        _check(self.path, config)
        if config.resume != "never" and (self.path / CONFIG_FILE).exists():
            self._lock = _locked(self.path)
            try:
                self.progress = choose_checkpoint(self.path, config) or self.progress
            except SettingError:
                self.release()
                raise
            if self.progress.step:
                self.resumed = checkpoint_folder(self.path, self.progress.step)

    def share_progress(self) -> Progress:
        """Return how far the run has come, on every rank; all ranks call it, once."""
        self.progress = from_rank_0(self.progress)
        return self.progress

    def start(self) -> None:
        """Lock the folder, remove what an earlier end has left over, and write the settings.

        Raises:
            SettingError: the folder cannot be written, or another run came first.
        """
        assert self.path is not None
        try:
            if self._lock is None:
                self._lock = self._lock_new()
            # First: what holds settings is a run, and can be started again wherever it ends.
            save_config(self._config, self.path)
            remove_unfinished(self.path)
            for step in saved_steps(self.path):
                if step > self.progress.step:  # Newer than the newest whole one: damaged.
                    set_aside(checkpoint_folder(self.path, step))
            for name in RESULT_FILES:  # Those of an earlier end: this run makes its own.
                (self.path / name).unlink(missing_ok=True)
            cut_metrics(self.path, self.progress.step)
            write_environment(self.path)
        except OSError as error:
            raise SettingError(
                f"run_dir {self.path} cannot be written: {error.strerror}"
            ) from error

    def _lock_new(self) -> FileLock:
        """Return the lock of a folder that was free when the run was set up."""
        assert self.path is not None
        try:
            lock = _locked(self.path)
            _check(self.path, self._config)
            if (self.path / CONFIG_FILE).exists():
                raise SettingError(
                    f"run_dir {self.path} was taken by another run just now; type it again"
                )
        except SettingError:
            if self._config.run_dir is not None or not (self.path / LOCK_FILE).exists():
                raise
            # Two runs that start in one second choose one name.
            self.path = _next_free(self.path)
            return self._lock_new()
        return lock

    def release(self) -> None:
        """Let another run have the folder."""
        if self._lock is not None:
            self._lock.release()


def _check(run_dir: Path, config: TrainConfig) -> None:
    """Raise where a run cannot be written to `run_dir` as `config.resume` has it."""
    is_run = (run_dir / CONFIG_FILE).exists()
    if is_run and config.resume == "never":
        raise SettingError(
            f"run_dir {run_dir} already holds a run; try --resume auto to go on with it, or "
            f"--run-dir {_next_free(run_dir)}"
        )
    if not is_run and config.resume == "must":
        raise SettingError(
            f"run_dir {run_dir} holds no run to resume; try --resume auto, which starts one"
        )
    beginnings = {LOCK_FILE, PART.format(CONFIG_FILE)}
    if not is_run and run_dir.is_dir() and {path.name for path in run_dir.iterdir()} - beginnings:
        raise SettingError(
            f"run_dir {run_dir} is not empty and holds no run; try --run-dir {_next_free(run_dir)}"
        )
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise SettingError(f"run_dir {run_dir} cannot be made: {nearest} is a file; name another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingError(f"run_dir {run_dir} cannot be written in {nearest}; name another")


def _locked(run_dir: Path) -> FileLock:
    """Return the lock of the folder, held; the system frees it when this process ends, however."""
    lock = FileLock(run_dir / LOCK_FILE, blocking=False)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        user = read_environment(run_dir)
        raise SettingError(
            f"run_dir {run_dir} is in use by process {user.get('process_id', '?')} on "
            f"{user.get('host', '?')}; wait until it ends, or try --run-dir {_next_free(run_dir)}"
        ) from None
    except NotImplementedError:
        print(f"{run_dir} cannot be locked on this file system: start one run there at a time")
    except OSError as error:
        raise SettingError(f"run_dir {run_dir} cannot be written: {error.strerror}") from error
    return lock


def _next_free(run_dir: Path) -> Path:
    if run_dir.name in ("", ".."):
        run_dir = run_dir.resolve()
    names = (run_dir.parent / f"{run_dir.name or 'run'}-{count}" for count in itertools.count(2))
    return next(path for path in names if not path.exists())
