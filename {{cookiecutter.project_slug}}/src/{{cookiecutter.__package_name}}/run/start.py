"""Checks before the process group is joined and data is loaded, and the preparation of the data."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from filelock import FileLock

from ..distributed.devices import Devices
from ..distributed.program import package_name
from ..settings.run_config import RunConfig
from .trackers import check_tracker

Config = TypeVar("Config", bound=RunConfig)


def check_settings(config: RunConfig, devices: Devices) -> None:
    """Check the settings that depend on the devices and on installed packages.

    Raises:
        SettingError: the global batch does not divide over the devices, or the tracker is not
            installed.
    """
    config.gradient_accumulation_steps(devices.data_parallel_size)
    check_tracker(config)


def prepare_once(prepare: Callable[[Config], None], config: Config) -> None:
    """Call `prepare` in one process of this machine at a time.

    The first does the work, such as a download; the others find it done. No process group exists
    yet, so nobody's timeout runs meanwhile.
    """
    project = hashlib.sha256(str(Path(__file__).parents[1]).encode()).hexdigest()[:16]
    lock = Path(tempfile.gettempdir()) / f"{package_name()}-{project}.lock"
    with FileLock(lock):
        prepare(config)
