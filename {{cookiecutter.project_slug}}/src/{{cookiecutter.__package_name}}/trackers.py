"""Where metrics go besides the run folder, through Accelerate's trackers."""

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from .config import SettingError, TrainConfig


def check_tracker(config: TrainConfig) -> None:
    """Look whether the tracker's package is there: Accelerate would quietly log nothing.

    Raises:
        SettingError: it is not installed.
    """
    if config.tracker != "none" and find_spec(config.tracker) is None:
        raise SettingError(
            f"tracker {config.tracker} is not installed; type: python -m pip install "
            f"{config.tracker}, or try --tracker none"
        )


class Tracker:
    """One tracker of one run, fed by rank 0; without a run folder, or with "none", it is silent."""

    def __init__(self, config: TrainConfig, run_dir: Path | None, *, first_step: int) -> None:
        self._tracker: GeneralTracker | None = None
        if run_dir is None or config.tracker == "none":
            return
        tracker_class = LOGGER_TYPE_TO_CLASS[config.tracker]
        project = (__package__ or "run").partition(".")[0]
        folder = (run_dir,) if tracker_class.requires_logging_directory else ()
        # TensorBoard then hides what a stopped run had logged beyond its checkpoint.
        purge = {"purge_step": first_step} if config.tracker == "tensorboard" else {}
        self._tracker = tracker_class(project, *folder, **purge)
        self._tracker.start()
        settings = {name: value for name, value in config.saved().items() if value is not None}
        self._tracker.store_init_configuration(settings)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of one optimizer step."""
        if self._tracker:
            self._tracker.log(dict(values), step=step)

    def finish(self) -> None:
        """Write what is still in memory."""
        if self._tracker:
            self._tracker.finish()
