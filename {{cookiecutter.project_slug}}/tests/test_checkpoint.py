"""Checkpoints on disk are written atomically, and corruption of any file is detected."""

import errno
import json
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError

from my_run.checkpoint import atomic, store
from my_run.checkpoint.resume import (
    latest_valid_checkpoint,
)
from my_run.checkpoint.store import (
    OPTIMIZER_FILE,
    CorruptCheckpoint,
    checkpoint_folder,
    prune_checkpoints,
    read_manifest,
    read_tensors,
    remove_unfinished,
    saved_steps,
    write_checkpoint,
)
from my_run.checkpoint.weights import WEIGHTS_FILE
from my_run.run.metrics_file import truncate_metrics

TENSORS = {
    WEIGHTS_FILE: {"head.weight": torch.randn(3, 4)},
    OPTIMIZER_FILE: {
        "momentum_buffer/head.weight": torch.randn(3, 4),
        "step/head.weight": torch.tensor(7.0),
    },
}
FILES = [WEIGHTS_FILE, OPTIMIZER_FILE, "manifest.json", "manifest.json.sha256"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    for step in (10, 20, 30):
        write_checkpoint(tmp_path, step, TENSORS, {"world_size": 2})
    return tmp_path


def test_a_checkpoint_reads_back(run_dir: Path) -> None:
    folder = checkpoint_folder(run_dir, 20)
    manifest = read_manifest(folder)

    assert folder == run_dir / "checkpoints" / "step_00000020"
    assert {path.name for path in folder.iterdir()} == set(FILES)
    assert (manifest["step"], manifest["world_size"]) == (20, 2)
    assert manifest["files"][WEIGHTS_FILE]["bytes"] == (folder / WEIGHTS_FILE).stat().st_size
    for name, tensors in read_tensors(folder).items():
        assert tensors.keys() == TENSORS[name].keys()
        assert all(torch.equal(value, TENSORS[name][key]) for key, value in tensors.items())


def test_checkpoint_files_have_default_permissions(run_dir: Path) -> None:
    modes = {path.stat().st_mode for path in checkpoint_folder(run_dir, 10).iterdir()}
    other = run_dir / "other"
    other.touch()

    assert modes == {other.stat().st_mode}


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="sha256sum is not installed")
def test_the_checksums_are_those_of_sha256sum(run_dir: Path) -> None:
    folder = checkpoint_folder(run_dir, 10)
    command = ["sha256sum", "--check", "manifest.json.sha256"]
    checked = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert set(checked.splitlines()) == {f"{name}: OK" for name in FILES[:3]}
    printed = subprocess.run(
        ["sha256sum", WEIGHTS_FILE], cwd=folder, capture_output=True, text=True, check=True
    ).stdout
    assert printed.split()[0] == read_manifest(folder)["files"][WEIGHTS_FILE]["sha256"]


def test_a_checkpoint_of_an_earlier_version_has_one_checksum(run_dir: Path) -> None:
    folder = checkpoint_folder(run_dir, 30)
    file = folder / "manifest.json.sha256"
    first, *_ = file.read_text(encoding="utf-8").splitlines(keepends=True)
    file.write_text(first, encoding="utf-8")

    assert read_manifest(folder)["step"] == 30


@pytest.mark.parametrize("name", FILES)
def test_a_corrupted_file_is_detected_and_the_previous_checkpoint_is_used(
    name: str, run_dir: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = checkpoint_folder(run_dir, 30) / name
    whole = file.read_bytes()
    damages = [whole[:-1], b"", whole + b"\n"]
    for position in range(0, len(whole), max(1, len(whole) // 50)):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        damages.append(bytes(flipped))
    for damage in damages:
        file.write_bytes(damage)
        with pytest.raises(CorruptCheckpoint, match="manifest.json" if "json" in name else name):
            read_manifest(file.parent)
    file.unlink()
    with pytest.raises(CorruptCheckpoint, match=name):
        read_manifest(file.parent)

    latest = latest_valid_checkpoint(run_dir)
    assert latest and latest[0] == checkpoint_folder(run_dir, 20)
    assert "step_00000030 is corrupted" in capsys.readouterr().err
    file.write_bytes(whole)
    latest = latest_valid_checkpoint(run_dir)
    assert latest and latest[0] == file.parent


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, "No space left on device"),
        SafetensorError("I/O error: No space left on device"),
    ],
)
def test_a_failed_write_keeps_older_checkpoints_and_no_partial_files(
    error: Exception, run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(tensors: object, file: Path) -> None:
        file.write_bytes(b"some of it")
        raise error

    monkeypatch.setattr(atomic, "save_file", fail)
    with pytest.raises(OSError, match="No space left"):
        write_checkpoint(run_dir, 40, TENSORS, {})

    assert sorted(path.name for path in (run_dir / "checkpoints").iterdir()) == [
        "step_00000010",
        "step_00000020",
        "step_00000030",
    ]
    assert all(read_manifest(checkpoint_folder(run_dir, step)) for step in (10, 20, 30))


def test_an_interrupted_write_is_not_a_checkpoint_and_is_removed(
    run_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(BaseException):
        pass

    def kill(part: Path, path: Path) -> None:
        raise KilledError

    monkeypatch.setattr(store, "rename_synced", kill)
    with pytest.raises(KilledError):
        write_checkpoint(run_dir, 40, TENSORS, {})
    (run_dir / ".summary.json.part").touch()
    assert (run_dir / "checkpoints" / ".step_00000040.part").is_dir()
    assert saved_steps(run_dir) == [30, 20, 10]

    remove_unfinished(run_dir)
    assert list(run_dir.rglob("*.part")) == []
    assert saved_steps(run_dir) == [30, 20, 10]


@pytest.mark.parametrize(
    ("keep", "best_step", "left"),
    [(1, None, [30]), (1, 10, [30, 10]), (2, 30, [30, 20]), (0, None, [30, 20, 10])],
)
def test_the_latest_and_the_best_are_kept(
    keep: int, best_step: int | None, left: list[int], run_dir: Path
) -> None:
    prune_checkpoints(run_dir, keep=keep, best_step=best_step)

    assert saved_steps(run_dir) == left


def test_metrics_are_truncated_after_a_step_and_may_end_in_a_partial_line(tmp_path: Path) -> None:
    lines = [{"split": "train", "step": step} for step in (1, 3, 6, 9)]
    lines.insert(3, {"split": "test", "step": 6})
    text = "".join(json.dumps(line) + "\n" for line in lines)
    file = tmp_path / "metrics.jsonl"
    file.write_text(text + '{"split": "train", "st', encoding="utf-8")
    truncate_metrics(tmp_path, 6)

    kept = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    assert kept == [{"split": "train", "step": step} for step in (1, 3, 6)]
