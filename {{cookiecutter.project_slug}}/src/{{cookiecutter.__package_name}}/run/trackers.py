"""Experiment trackers, by way of Accelerate's."""

import json
import re
import sys
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate.tracking import LOGGER_TYPE_TO_CLASS, GeneralTracker

from ..checkpoint.atomic import write_json
from ..distributed.program import package_name
from ..settings.errors import SettingError, in_one_line
from ..settings.run_config import RunConfig
from .metrics_file import METRICS_FILE

TRACKER_FILE = "tracker.json"
# The names that MLflow takes are refused with any other character.
NOT_IN_MLFLOW = re.compile(r"[^/\w.\- :]")


def check_tracker(config: RunConfig) -> None:
    """Check that the tracker is installed: Accelerate would silently log nothing.

    Raises:
        SettingError: it is not installed.
    """
    if config.tracker == "none":
        return
    spec = find_spec(config.tracker)
    # A folder of this name in the working directory is found as a package without a file.
    if spec is None or spec.origin is None:
        raise SettingError(
            f"tracker {config.tracker} is not installed; type: python -m pip install "
            f"{config.tracker}, or try --tracker none"
        )


class Tracker:
    """The tracker of one run; does nothing on other ranks than 0, or if it is "none"."""

    def __init__(
        self, config: RunConfig, run_dir: Path, *, is_main_process: bool, first_step: int
    ) -> None:
        self._tracker: GeneralTracker | None = None
        self._name = config.tracker
        if not is_main_process or config.tracker == "none":
            return
        try:
            self._start(config, run_dir, first_step=first_step)
        except Exception as error:
            raise SettingError(
                f"tracker {config.tracker} cannot start: {in_one_line(error)}; mend that, or try "
                "--tracker none"
            ) from error

    def _start(self, config: RunConfig, run_dir: Path, *, first_step: int) -> None:
        tracker_class = LOGGER_TYPE_TO_CLASS[config.tracker]
        project = package_name()
        folder = (run_dir,) if tracker_class.requires_logging_directory else ()
        known = _known_as(run_dir, config) if first_step > 1 else None
        arguments = _arguments(config, known, first_step=first_step, name=run_dir.name)
        self._tracker = tracker_class(project, *folder, **arguments)
        self._tracker.start()
        if known is None:  # MLflow refuses to log settings twice.
            # TensorBoard takes no lists.
            settings = {
                name: value if isinstance(value, int | float) else str(value)
                for name, value in config.saved().items()
                if value is not None
            }
            self._tracker.store_init_configuration(settings)
            known = arguments.get("id") or arguments.get("name")
            if config.tracker == "mlflow":
                known = self._tracker.tracker.info.run_id
            if known is not None:
                write_json(run_dir / TRACKER_FILE, {"tracker": config.tracker, "run": known})

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Send values of one optimizer step; a tracker that fails is not used again."""
        if self._tracker:
            if self._name == "mlflow":
                values = {NOT_IN_MLFLOW.sub("_", name): value for name, value in values.items()}
            with self._failures_are_warnings():
                self._tracker.log(dict(values), step=step)

    def finish(self) -> None:
        """Flush and close the tracker."""
        tracker = self._tracker
        if tracker:
            with self._failures_are_warnings():
                tracker.finish()
        self._tracker = None

    @contextmanager
    def _failures_are_warnings(self) -> Iterator[None]:
        """Keep training: a server that does not answer must not end a run."""
        try:
            yield
        except Exception as error:
            self._tracker = None
            print(
                f"warning: tracker {self._name} failed ({in_one_line(error)}) and gets no more; "
                f"{METRICS_FILE} has every value",
                file=sys.stderr,
            )


def _known_as(run_dir: Path, config: RunConfig) -> str | None:
    """Return the tracker's id of the run that is resumed, None if it has none."""
    file = run_dir / TRACKER_FILE
    saved = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    return saved.get("run") if saved.get("tracker") == config.tracker else None


def _arguments(
    config: RunConfig, known: str | None, *, first_step: int, name: str
) -> dict[str, Any]:
    """Return arguments that make a tracker resume its run, or start one."""
    run = known or f"{name}-{uuid.uuid4().hex[:8]}"
    arguments: dict[str, dict[str, Any]] = {
        # It then hides what was logged after the checkpoint.
        "tensorboard": {"purge_step": first_step},
        "wandb": {"id": run, "resume": "allow"},
        "trackio": {"name": run, "resume": "allow"},
        "mlflow": {"run_id": known},
    }
    return arguments[config.tracker]
