"""The model of a finished run, or of one of its checkpoints."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from torch import nn

from ..checkpoint.data_info import SAMPLES, load_data_info
from ..checkpoint.resume import weights_folder
from ..checkpoint.weights import load_weights
from ..settings.config_file import CONFIG_FILE, load_config
from ..settings.run_config import START_FOLDER, RunConfig

Config = TypeVar("Config", bound=RunConfig)


@dataclass(frozen=True, kw_only=True)
class TrainedRun:
    """The settings of a program that uses a trained model."""

    run_dir: Path
    """Folder of the run."""

    checkpoint: str | None = None
    """Weights to use: latest, best (by validation) or step_00000038; None uses the final ones."""

    def __post_init__(self) -> None:
        # A function of the user may change the current folder.
        object.__setattr__(self, "run_dir", START_FOLDER / self.run_dir)

    def load(
        self,
        config_class: type[Config],
        make_model: Callable[[Config, dict[str, Any]], nn.Module],
    ) -> tuple[Config, dict[str, Any], nn.Module]:
        """Return the run's settings, what it knows of the data, and its model, on the CPU.

        Raises:
            SettingError: the folder holds no such weights, or they are corrupted.
        """
        config = load_config(config_class, self.run_dir / CONFIG_FILE)
        info = load_data_info(self.run_dir)
        info.pop(SAMPLES, None)
        model = make_model(config, info)
        load_weights(self.weights_folder, model)
        return config, info, model.eval()

    @property
    def weights_folder(self) -> Path:
        """The folder of the weights: the run's, or that of a checkpoint."""
        return weights_folder(self.run_dir, self.checkpoint)
