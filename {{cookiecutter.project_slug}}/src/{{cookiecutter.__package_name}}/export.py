"""Export a trained model with torch.export, and to ONNX: checked against the model's own output.

A model that cannot be traced is an error that says where in `model.py`.
"""

import importlib.util
import io
import logging
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from . import model as users_model
from .checkpoint.atomic import PART, rename_synced
from .config import TrainConfig
from .model import make_model
from .run.tables import print_table
from .run.trained import TrainedRun
from .run.users_code import errors_named
from .settings.command_line import parse_command_line
from .settings.errors import RunError, SettingError, errors_in_one_line

EXPORT_FOLDER = "export"
ONNX_PACKAGES = ("onnx", "onnxruntime", "onnxscript")
# Of float32 kernels that sum in other orders; relative to the largest output.
TOLERANCE = 1e-4


@dataclass(frozen=True, kw_only=True)
class ExportConfig(TrainedRun):
    """Export the trained model of a run folder to RUN/export/."""

    run_dir: tyro.conf.Positional[Path]
    """Folder of the run."""

    format: Literal["all", "torch", "onnx"] = "all"
    """model.pt2 for torch.export.load, model.onnx, or all that this environment can write."""


def export(settings: ExportConfig) -> dict[str, float]:
    """Write the files; return their largest difference from the model's output, by file name.

    Raises:
        SettingError: there are no such weights, the model cannot be exported, its exported form
            computes something else, or ONNX was asked for and is not installed.
        RunError: a file could not be written.
    """
    missing = [name for name in ONNX_PACKAGES if importlib.util.find_spec(name) is None]
    if missing and settings.format == "onnx":
        raise SettingError(
            f"onnx needs {', '.join(missing)}; try python -m pip install {' '.join(missing)}"
        )
    if not hasattr(users_model, "example_inputs"):
        raise SettingError(
            "model.py: export needs example_inputs(config, info); return inputs of the model's "
            "forward as a tuple of tensors, for a batch of 2"
        )
    config, info, model = settings.load(TrainConfig, make_model)
    with errors_named("model.py", "example_inputs"):
        inputs = users_model.example_inputs(config, info)
    folder = settings.run_dir / EXPORT_FOLDER
    program = _trace(model, inputs)
    differences = {}
    if settings.format != "onnx":
        _write(program, folder / "model.pt2")
        loaded = torch.export.load(folder / "model.pt2").module()
        differences["model.pt2"] = _compare(model, loaded, inputs)
    if settings.format != "torch" and not missing:
        _write_onnx(program, folder / "model.onnx")
        run_onnx = _onnx_session(folder / "model.onnx")
        differences["model.onnx"] = _compare(model, run_onnx, inputs)
    return differences


def _trace(model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
    """Return the model's graph; sizes that the model does not fix, as of the batch, stay free."""
    free = tuple(
        {i: torch.export.Dim.AUTO for i, size in enumerate(value.shape) if size > 1}
        for value in inputs
    )
    with errors_named("model.py", "torch.export of the model"):
        return torch.export.export(model, inputs, dynamic_shapes=free)


def _write(program: torch.export.ExportedProgram, file: Path) -> None:
    # In memory first: where the disk is full, PyTorch would abort the process.
    content = io.BytesIO()
    torch.export.save(program, content)
    part = file.with_name(PART.format(file.name))
    content.seek(0)
    with _writing(file):
        # Not `write_bytes(content.getbuffer())`: after a failed write, Python 3.12.1 crashes when
        # it collects the view.
        with part.open("wb") as output:
            shutil.copyfileobj(content, output)
        rename_synced(part, file)


@contextmanager
def _writing(file: Path) -> Iterator[None]:
    """Make the folder of a file, and turn a failed write into a `RunError` that names the file."""
    try:
        file.parent.mkdir(exist_ok=True)
        yield
    except OSError as error:
        raise RunError(f"{file} cannot be written: {error.strerror or error}") from error


def _write_onnx(program: torch.export.ExportedProgram, file: Path) -> None:
    with _writing(file), errors_named("model.py", "the export to ONNX"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # It would name the packages that it looked for in vain.
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)
        # One file, unless the format's limit of 2 GB is near.
        is_large = sum(weight.nbytes for weight in program.state_dict.values()) > 1e9
        torch.onnx.export(program, f=file, dynamo=True, verbose=False, external_data=is_large)


def _onnx_session(file: Path) -> Callable[..., tuple[Tensor, ...]]:
    import onnxruntime

    session = onnxruntime.InferenceSession(file)

    def run(*inputs: Tensor) -> tuple[Tensor, ...]:
        names = [value.name for value in session.get_inputs()]
        feeds = {name: value.numpy() for name, value in zip(names, inputs, strict=True)}
        return tuple(torch.from_numpy(output) for output in session.run(None, feeds))

    return run


@torch.inference_mode()
def _compare(model: nn.Module, exported: Callable[..., Any], inputs: tuple[Tensor, ...]) -> float:
    """Return the largest difference of outputs, relative to the largest, for two batch sizes.

    Raises:
        SettingError: it is too large.
    """
    larger = tuple(torch.cat([value, value[:1]]) for value in inputs)
    worst = 0.0
    for batch in (inputs, larger):
        pairs = zip(_tensors(model(*batch)), _tensors(exported(*batch)), strict=True)
        for expected, found in pairs:
            scale = expected.abs().max().clamp(min=1e-6)
            worst = max(worst, float((found - expected).abs().max() / scale))
    if not worst <= TOLERANCE:
        raise SettingError(
            f"model.py: the exported model computes something else: outputs differ by {worst:.1e}"
        )
    return worst


def _tensors(output: Any) -> list[Tensor]:
    """Return the tensors of an output: one, or several in a tuple, list or dictionary."""
    if isinstance(output, Tensor):
        return [output]
    parts = output.values() if hasattr(output, "values") else output
    return [tensor for part in parts for tensor in _tensors(part)]


def main() -> None:
    """Print a line for each file."""
    with errors_in_one_line():
        settings = parse_command_line(ExportConfig)
        differences = export(settings)
        rows = {
            name: f"outputs agree with the model's to {difference:.0e}"
            for name, difference in differences.items()
        }
        if settings.format == "all" and "model.onnx" not in differences:
            rows["ONNX"] = f"left out: python -m pip install {' '.join(ONNX_PACKAGES)}"
        print_table(f"Exported to {settings.run_dir / EXPORT_FOLDER}/", rows)


if __name__ == "__main__":
    main()
