"""Whether a run may write to a folder: the rules, the lock, and the next free name."""

import errno
import itertools
import os
import sys
from pathlib import Path

from filelock import FileLock, Timeout

from ..settings.config_file import CONFIG_FILE
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .environment import read_environment

LOCK_FILE = ".lock"
# What a run writes beside its config.yaml.
RUN_FILES = (
    *("checkpoints", "curves.png", "data.json", "environment.json", "export", "metrics.jsonl"),
    *("model.safetensors", "pictures", "summary.json", "trace.json", "tracker.json"),
)


def check_run_dir(run_dir: Path, config: RunConfig) -> None:
    """Check that `config.resume` allows a run in `run_dir`, and that it can be written.

    Raises:
        SettingError: it holds a run, holds none to resume, holds something else, or is read-only.
    """
    try:
        is_run = (run_dir / CONFIG_FILE).exists()
    except OSError as error:  # Such as a name that is too long.
        raise SettingError(f"run_dir {run_dir}: {error.strerror}; try another") from error
    if is_run and config.resume == "never":
        raise SettingError(
            f"run_dir {run_dir} already holds a run; try --resume auto to resume it, or "
            f"--run-dir {next_free(run_dir)}"
        )
    if not is_run and config.resume == "must":
        raise SettingError(
            f"run_dir {run_dir} holds no run to resume; try --resume auto, which starts one"
        )
    # What else is there, such as the log of a job or lost+found, stays as it is.
    found = sorted(name for name in RUN_FILES if (run_dir / name).exists())
    if not is_run and found:
        raise SettingError(
            f"run_dir {run_dir} holds no run, but {', '.join(found)}, which a run would overwrite; "
            f"try --run-dir {next_free(run_dir)}"
        )
    nearest = next(path for path in (run_dir, *run_dir.absolute().parents) if path.exists())
    if not nearest.is_dir():
        raise SettingError(f"run_dir {run_dir} cannot be made: {nearest} is a file; try another")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise SettingError(f"run_dir {run_dir}: no permission to write in {nearest}; try another")


def lock_run_dir(run_dir: Path) -> FileLock:
    """Return the lock of a folder, acquired; the system releases it when the process ends.

    Raises:
        SettingError: another process has it, or the folder cannot be written.
    """
    lock = FileLock(run_dir / LOCK_FILE, blocking=False)
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        user = read_environment(run_dir)
        raise SettingError(
            f"run_dir {run_dir} is in use by process {user.get('process_id', '?')} on "
            f"{user.get('host', '?')}; wait until it ends, or try --run-dir {next_free(run_dir)}"
        ) from None
    except NotImplementedError:
        _say_no_locks(run_dir)
    except OSError as error:
        if error.errno in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EINVAL):
            _say_no_locks(run_dir)
            return lock
        raise SettingError(f"run_dir {run_dir} cannot be written: {error.strerror}") from error
    return lock


def _say_no_locks(run_dir: Path) -> None:
    print(
        f"{run_dir}: this file system has no locks; start only one run there at a time",
        file=sys.stderr,
    )


def next_free(run_dir: Path) -> Path:
    """Return the first of `run_dir`-2, `run_dir`-3, ... that does not exist."""
    if run_dir.name in ("", ".."):
        run_dir = run_dir.resolve()
    names = (run_dir.parent / f"{run_dir.name or 'run'}-{count}" for count in itertools.count(2))
    return next(path for path in names if not path.exists())
