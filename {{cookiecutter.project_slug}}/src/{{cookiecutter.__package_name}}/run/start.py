"""Checks before the process group is joined and data is loaded, and the preparation of the data."""

import hashlib
import socket
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from multiprocessing.connection import Listener
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from ..distributed.devices import Devices
from ..distributed.program import package_name
from ..settings.config_file import check_readable
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .trackers import check_tracker

Config = TypeVar("Config", bound=RunConfig)


def check_settings(config: RunConfig, devices: Devices) -> None:
    """Check the settings that depend on the devices and on installed packages.

    Raises:
        SettingError: the global batch does not divide over the devices, config.yaml cannot hold a
            setting, the tracker is not installed, or DataLoader workers cannot be reached.
    """
    config.gradient_accumulation_steps(devices.data_parallel_size)
    check_readable(config)
    check_tracker(config)
    if config.num_workers:
        _try_socket()


def _try_socket() -> None:
    """Open a socket as DataLoader workers do, who would send nothing without one."""
    try:
        Listener(family="AF_UNIX" if hasattr(socket, "AF_UNIX") else None).close()
    except OSError as error:
        raise SettingError(
            f"num_workers needs a socket in {tempfile.gettempdir()}: {error}; set TMPDIR to a "
            "shorter path that can be written, or try --num-workers 0"
        ) from error


def prepare_once(prepare: Callable[[Config], None], config: Config) -> None:
    """Call `prepare` in one process of this machine at a time.

    The first does the work, such as a download; the others find it done. No process group exists
    yet, so nobody's timeout runs meanwhile.
    """
    project = hashlib.sha256(str(Path(__file__).parents[1]).encode()).hexdigest()[:16]
    with ExitStack() as stack:
        try:
            lock = Path(tempfile.gettempdir()) / f"{package_name()}-{project}.lock"
            stack.enter_context(FileLock(lock))
        except (OSError, NotImplementedError) as error:
            print(
                f"no lock for prepare of data.py ({error}); start only one process at a time if it "
                "has work to do, or set TMPDIR to a folder that can be written",
                file=sys.stderr,
            )
        prepare(config)
