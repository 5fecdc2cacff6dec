"""Exported models compute what the model does, for batches of any size."""

import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from my_run import export
from my_run.settings.command_line import (
    parse_command_line,
)
from my_run.settings.errors import (
    RunError,
    SettingError,
)

from .launching import tiny_job
from .tiny import model as tiny
from .tiny.config import TrainConfig
from .tiny.data import describe

CONFIG = TrainConfig()
INFO = describe(CONFIG)


@pytest.fixture(autouse=True)
def exported(
    single_run: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Path:
    """The folder that files are exported to."""
    monkeypatch.setattr(export, "users_model", tiny)
    patched = tiny_job(export)
    patched.__enter__()
    request.addfinalizer(lambda: patched.__exit__(None, None, None))
    return single_run / export.EXPORT_FOLDER


def settings(run_dir: Path, *flags: str) -> export.ExportConfig:
    return parse_command_line(export.ExportConfig, [str(run_dir), *flags])


def trained(run_dir: Path) -> nn.Module:
    _, _, model = settings(run_dir).load(TrainConfig, tiny.make_model)
    return model


@pytest.mark.parametrize("batch_size", [1, 2, 7])
def test_the_files_compute_what_the_model_does(
    batch_size: int, single_run: Path, exported: Path
) -> None:
    differences = export.export(settings(single_run))
    assert set(differences) == {path.name for path in exported.iterdir()}
    assert set(differences) == {"model.pt2", "model.onnx"}
    [inputs] = [
        torch.randn(batch_size, *value.shape[1:]) for value in tiny.example_inputs(CONFIG, INFO)
    ]
    with torch.no_grad():
        expected = trained(single_run)(inputs)
        found = torch.export.load(exported / "model.pt2").module()(inputs)
    session = onnxruntime.InferenceSession(exported / "model.onnx")
    [name] = [value.name for value in session.get_inputs()]
    [by_onnx] = session.run(None, {name: inputs.numpy()})

    torch.testing.assert_close(found, expected)
    torch.testing.assert_close(torch.from_numpy(by_onnx), expected, rtol=1e-4, atol=1e-5)


def test_a_file_that_computes_something_else_is_refused(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trace = export._trace

    def trace_another(model: nn.Module, inputs: tuple[Tensor, ...]) -> torch.export.ExportedProgram:
        torch.manual_seed(1)
        return trace(tiny.make_model(CONFIG, INFO).eval(), inputs)

    monkeypatch.setattr(export, "_trace", trace_another)
    for name in ("torch", "onnx"):
        with pytest.raises(SettingError, match="the exported model computes something else: out"):
            export.export(settings(single_run, "--format", name))


def test_a_model_that_cannot_be_traced_is_named(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def forward(model: nn.Module, inputs: Tensor) -> Tensor:
        return inputs if inputs.sum() > 0 else -inputs

    monkeypatch.setattr(tiny.Classifier, "forward", forward)
    with pytest.raises(SettingError, match=r"torch\.export of the model failed") as error:
        export.export(settings(single_run))
    assert "\n" not in str(error.value)


def test_a_job_without_example_inputs_is_told_what_to_define(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "users_model", SimpleNamespace())
    with pytest.raises(
        SettingError, match=r"model\.py: export needs example_inputs\(config, info\)"
    ):
        export.export(settings(single_run))


def test_without_its_packages_onnx_is_left_out_or_refused(
    single_run: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(export, "ONNX_PACKAGES", ("onnx", "no_such_package"))
    monkeypatch.setattr(sys, "argv", ["export", str(single_run)])
    export.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert "model.pt2" in printed and "model.onnx" not in printed
    assert "python -m pip install onnx no_such_package" in printed
    monkeypatch.setattr(sys, "argv", ["export", str(single_run), "--format", "onnx"])
    with pytest.raises(SystemExit, match="2"):
        export.main()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: onnx needs no_such_package; try python -m pip install")


@contextmanager
def full_disk(exported: Path) -> Iterator[None]:
    """Let no file grow beyond a few bytes inside."""
    if sys.platform == "win32":
        yield
        return
    import resource

    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextmanager
def file_in_the_way(exported: Path) -> Iterator[None]:
    exported.touch()
    yield
    exported.unlink()


@pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")
@pytest.mark.parametrize(
    ("trouble", "reason"), [(full_disk, "File too large"), (file_in_the_way, "File exists")]
)
def test_a_folder_that_cannot_be_written_is_one_line(
    trouble: Any, reason: str, single_run: Path, exported: Path
) -> None:
    shutil.rmtree(exported, ignore_errors=True)
    with (
        trouble(exported),
        pytest.raises(RunError, match=rf"model\.pt2 cannot be written: {reason}"),
    ):
        export.export(settings(single_run, "--format", "torch"))
    assert not (exported / "model.pt2").exists()
