"""Where metrics go besides the run folder, through Accelerate's trackers."""

import json
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from .config import TrainConfig
from .errors import SettingError
from .files import write_json

TRACKER_FILE = "tracker.json"


def check_tracker(config: TrainConfig) -> None:
    """Look whether the tracker's package is there: Accelerate would quietly log nothing.

    Raises:
        SettingError: it is not installed.
    """
    if config.tracker == "none":
        return
    spec = find_spec(config.tracker)
    # A folder that a tracker left here would do as a package without a file.
    if spec is None or spec.origin is None:
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
        known = _known_as(run_dir, config) if first_step > 1 else None
        arguments = _arguments(config, known, first_step=first_step, name=run_dir.name)
        self._tracker = tracker_class(project, *folder, **arguments)
        self._tracker.start()
        if known is None:  # MLflow refuses to hear of settings twice.
            settings = {name: value for name, value in config.saved().items() if value is not None}
            self._tracker.store_init_configuration(settings)
            known = arguments.get("id") or arguments.get("name")
            if config.tracker == "mlflow":
                known = self._tracker.tracker.info.run_id
            if known is not None:
                write_json(run_dir / TRACKER_FILE, {"tracker": config.tracker, "run": known})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of one optimizer step."""
        if self._tracker:
            self._tracker.log(dict(values), step=step)

    def finish(self) -> None:
        """Write what is still in memory."""
        if self._tracker:
            self._tracker.finish()


def _known_as(run_dir: Path, config: TrainConfig) -> str | None:
    """Return what the tracker calls the run that goes on, None where it does not know it."""
    file = run_dir / TRACKER_FILE
    saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return saved.get("run") if saved.get("tracker") == config.tracker else None


def _arguments(
    config: TrainConfig, known: str | None, *, first_step: int, name: str
) -> dict[str, Any]:
    """Return what makes a tracker go on with the run that it knows, or begin one."""
    run = known or f"{name}-{uuid.uuid4().hex[:8]}"
    arguments: dict[str, dict[str, Any]] = {
        # It then hides what a stopped run had logged beyond its checkpoint.
        "tensorboard": {"purge_step": first_step},
        "wandb": {"id": run, "resume": "allow"},
        "trackio": {"name": run, "resume": "allow"},
        "mlflow": {"run_id": known},
    }
    return arguments[config.tracker]
