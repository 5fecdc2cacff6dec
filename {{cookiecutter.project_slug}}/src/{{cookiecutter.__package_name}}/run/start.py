"""Checks before the process group is joined and data is loaded."""

from ..distributed.devices import Devices
from ..settings.run_config import RunConfig
from .trackers import check_tracker


def check_settings(config: RunConfig, devices: Devices) -> None:
    """Check the settings that depend on the devices and on installed packages.

    Raises:
        SettingError: the global batch does not divide over the devices, or the tracker is not
            installed.
    """
    config.gradient_accumulation_steps(devices.data_parallel_size)
    check_tracker(config)
