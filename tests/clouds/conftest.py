"""What the files for the clouds are compared with."""

from pathlib import Path

import pytest

from ..runs import Run, train
from .nodes import FLAGS


@pytest.fixture(scope="session")
def undisturbed(default_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """One process, and nothing happens to it."""
    folder = tmp_path_factory.mktemp("undisturbed") / "run"
    return train(default_project, folder, "train", *FLAGS)
