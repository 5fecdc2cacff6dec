"""Runs that are stopped or killed, or that fail, resume to the result of an uninterrupted run."""

import multiprocessing
import os
import shutil
import signal
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from filelock import FileLock
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor

from my_run.batches import plan as plans
from my_run.batches.evaluation import (
    Evaluation,
    evaluate,
)
from my_run.batches.loaders import EvaluationLoader
from my_run.batches.plan import make_plan
from my_run.batches.seeds import seed_forward
from my_run.checkpoint import resume
from my_run.checkpoint.progress import Progress
from my_run.checkpoint.resume import (
    resume_command,
    weights_folder,
)
from my_run.checkpoint.state import TrainingState
from my_run.checkpoint.store import (
    checkpoint_folder,
    read_manifest,
    saved_steps,
    write_checkpoint,
)
from my_run.checkpoint.weights import load_weights
from my_run.distributed.devices import (
    Devices,
    find_devices,
)
from my_run.distributed.signal_watch import SIGNALS
from my_run.reference import single
from my_run.run import folder as folders
from my_run.run.environment import read_environment
from my_run.run.folder import RunFolder
from my_run.run.trackers import Tracker
from my_run.settings.config_file import load_config
from my_run.settings.errors import (
    RunError,
    SettingError,
)

from .conftest import NEEDS_EXACT_FSDP2, SHORT_RUN
from .launching import (
    PACKAGE,
    launch,
    read_metrics,
    read_summary,
    run_train,
    start,
    wait_for,
    weight_difference,
)
from .tiny.config import TrainConfig
from .tiny.data import SECONDS_PER_BATCH, Points, Split, collate, describe, load
from .tiny.model import Classifier, compute_loss
from .tiny.optimizer import make_optimizer
from .tiny.pictures import PICTURE

WEIGHTS = "model.safetensors"
NEVER = 0
SAVING = [*SHORT_RUN, "--checkpoint-every", 4]


@pytest.fixture
def at_step(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., None]]:
    """Do something in the middle of a step of `reference.single`, in this process."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def arrange(step: int, action: Callable[[], object]) -> None:
        def act_and_seed(seed: int, present: int, micro_batches: range) -> None:
            if (present, micro_batches[0]) == (step, 3):
                action()
            seed_forward(seed, present, micro_batches)

        monkeypatch.setattr(plans, "seed_forward", act_and_seed)

    yield arrange
    for number, handler in handlers.items():
        signal.signal(number, handler)


def config_to_resume(run_dir: Path) -> TrainConfig:
    config = load_config(TrainConfig, run_dir / "config.yaml")
    return replace(config, run_dir=run_dir, resume="must")


def stop() -> None:
    signal.raise_signal(signal.SIGTERM)


def assert_same_run(run_dir: Path, expected: Path) -> None:
    assert weight_difference(run_dir, expected) == 0
    assert read_metrics(run_dir) == read_metrics(expected)


def test_a_killed_run_resumes_on_two_processes_to_the_same_bits(
    single_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setenv(SECONDS_PER_BATCH, "0.01")
        process = start("train", "--run-dir", tmp_path, *SAVING)
    try:
        wait_for(10, tmp_path)
    finally:
        process.kill()
        process.communicate()
    latest = saved_steps(tmp_path)[0]
    run_train(tmp_path, *SAVING, "--resume", "must", num_processes=2)
    summary = read_summary(tmp_path)

    assert 4 <= latest < 24 and summary["resumed_from"] == latest
    assert (summary["placement"], summary["world_size"]) == ("ddp", 2)
    assert_same_run(tmp_path, single_run)


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
@NEEDS_EXACT_FSDP2
def test_every_strategy_resumes_from_a_checkpoint_of_another(
    single_run: Path,
    tmp_path: Path,
    at_step: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """From single by DDP on two processes and FSDP2 to DataParallel, stopped by signals."""
    monkeypatch.setenv(SECONDS_PER_BATCH, "0.01")
    at_step(7, stop)
    run_train(tmp_path, *SAVING, program="reference.single")
    assert (read_summary(tmp_path)["stopped_by"], saved_steps(tmp_path)[0]) == ("SIGTERM", 7)
    for program, step in (("reference.ddp", 9), ("reference.fsdp2", 15)):
        arguments = ["--run-dir", tmp_path, *SAVING, "--resume", "must"]
        process = start(program, *arguments, num_processes=2)
        wait_for(step, tmp_path)
        process.send_signal(signal.SIGTERM)
        stdout, stderr = process.communicate(timeout=60)
        summary = read_summary(tmp_path)
        assert summary["placement"] == program.removeprefix("reference."), stderr
        assert (summary["world_size"], summary["stopped_by"]) == (2, "SIGTERM")
        assert "resume with: torchrun" in stdout
        assert summary["optimizer_steps"] == saved_steps(tmp_path)[0] >= step
    run_train(tmp_path, *SAVING, "--resume", "must", program="reference.data_parallel")

    assert read_summary(tmp_path)["resumed_from"] == summary["optimizer_steps"]
    assert_same_run(tmp_path, single_run)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_after_the_step_and_prints_the_resume_command(
    number: signal.Signals,
    tmp_path: Path,
    at_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_step(5, lambda: signal.raise_signal(number))
    run_train(tmp_path, *SHORT_RUN, "--checkpoint-every", 0, program="reference.single")
    summary, printed = read_summary(tmp_path), capsys.readouterr().out

    assert saved_steps(tmp_path) == [5]
    assert (summary["stopped_by"], summary["optimizer_steps"]) == (number.name, 5)
    assert "test_loss" not in summary and not (tmp_path / WEIGHTS).exists()
    assert f"Stopped by {number.name} after step 5" in printed
    assert f"--run-dir {tmp_path} --resume must" in printed


def test_a_signal_in_the_last_validation_saves_and_skips_the_test(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at_step: Callable[..., None]
) -> None:
    def validate(*arguments: Any) -> Evaluation:
        stop()
        return evaluate(*arguments)

    at_step(NEVER, stop)  # For its handlers.
    monkeypatch.setattr(single, "evaluate", validate)
    flags = ["--max-steps", 3, "--eval-every", 0, "--checkpoint-every", 0, "--tracker", "none"]
    run_train(tmp_path, *flags, program="reference.single")

    assert (read_summary(tmp_path)["stopped_by"], saved_steps(tmp_path)) == ("SIGTERM", [3])
    assert [line["split"] for line in read_metrics(tmp_path)][-1] == "validation"


def test_a_training_set_of_another_size_is_refused_by_the_plan_too(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load_fewer(split: Split, *_: Any, augmented: bool = False) -> Points:
        samples = load(split, augmented=augmented)
        return Points(samples.inputs[:1200], samples.targets[:1200], augmented=augmented)

    monkeypatch.setattr(single, "load_split", load_fewer)
    flags = ["--config", single_run / "config.yaml", "--resume", "must", "--plan"]
    with pytest.raises(SettingError, match="has 1200 samples and had 1257"):
        run_train(single_run, *flags, program="reference.single")


def test_repeated_sigterm_stops_once_and_a_second_ctrl_c_exits_immediately(
    tmp_path: Path, at_step: Callable[..., None]
) -> None:
    def stop_twice() -> None:
        stop()
        stop()

    at_step(5, stop_twice)
    run_train(tmp_path / "stopped", *SAVING, program="reference.single")
    assert read_summary(tmp_path / "stopped")["stopped_by"] == "SIGTERM"

    def interrupt_twice() -> None:
        while not saved_steps(tmp_path / "left"):  # It is written in the background.
            time.sleep(0.01)
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)

    at_step(6, interrupt_twice)
    with pytest.raises(KeyboardInterrupt):
        run_train(tmp_path / "left", *SAVING, program="reference.single")
    assert saved_steps(tmp_path / "left") == [4]


def test_a_finished_run_is_only_tested_again_and_may_take_more_steps(
    single_run: Path, tmp_path: Path
) -> None:
    run_train(tmp_path, *SAVING, program="reference.single")
    run_train(tmp_path, *SAVING, "--resume", "auto", program="reference.single")
    assert read_summary(tmp_path)["resumed_from"] == 24
    assert_same_run(tmp_path, single_run)

    more = [*SAVING, "--max-steps", 30, "--log-every", 5, "--tracker", "tensorboard"]
    run_train(tmp_path, *more, "--resume", "must", program="reference.single")
    assert read_summary(tmp_path)["optimizer_steps"] == 30
    tests = [line["step"] for line in read_metrics(tmp_path) if line["split"] == "test"]
    assert tests == [30]
    assert len(read_environment(tmp_path)["earlier_starts"]) == 2


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_an_interrupted_start_can_be_repeated(
    error: BaseException, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*arguments: object) -> None:
        raise error

    for function in (
        *("write_atomically", "remove_unfinished", "truncate_metrics", "write_environment"),
    ):
        config = TrainConfig(run_dir=tmp_path / function, resume="auto")
        devices = find_devices(config, "single")
        run_folder = RunFolder(config, devices)
        with monkeypatch.context() as patch:
            patch.setattr(folders, function, fail)
            with pytest.raises((SettingError, KeyboardInterrupt)):
                run_folder.__enter__()
        run_folder.release()
        (tmp_path / function / ".config.yaml.part").touch()
        with RunFolder(config, devices):
            pass
        assert not (tmp_path / function / ".config.yaml.part").exists()


def test_an_invalid_line_of_the_log_is_named_and_skipped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(tmp_path, *SAVING, "--max-steps", 4, program="reference.single")
    log = tmp_path / "metrics.jsonl"
    log.write_text("\n" + log.read_text(encoding="utf-8"), encoding="utf-8")
    run_train(tmp_path, *SAVING, "--resume", "must", program="reference.single")

    assert "metrics.jsonl: line 1 is not valid JSON; skipped" in capsys.readouterr().err
    assert read_summary(tmp_path)["optimizer_steps"] == 24


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({}, "with: torchrun --nproc-per-node 2 -m "),
        ({"ACCELERATE_USE_FSDP": "true"}, "accelerate launch --config_file launch/fsdp2.yaml -m "),
        (
            {"GROUP_WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"},
            "2 machines, with the flags that it had) torchrun --nnodes 2 --nproc-per-node 1 -m ",
        ),
        (
            {"GROUP_WORLD_SIZE": "2", "ACCELERATE_MIXED_PRECISION": "no"},
            "2 machines, with the flags that it had) accelerate launch -m ",
        ),
        (
            {"GROUP_WORLD_SIZE": "2", "SLURM_STEP_NUM_TASKS": "2"},
            "with: srun --nodes 2 --ntasks 2 python -m ",
        ),
    ],
)
def test_the_resume_command_starts_the_launcher_again(
    variables: dict[str, str], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    devices = Devices("fsdp2", torch.device("cpu"), rank=0, world_size=2)
    assert words in resume_command(tmp_path, devices)


def test_changed_settings_are_refused_by_name_without_allow_changes(
    single_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = config_to_resume(single_run)
    devices = find_devices(same, "single")
    RunFolder(replace(same, max_steps=50, log_every=1, keep_checkpoints=9), devices).release()
    changed = replace(same, learning_rate=0.5, seed=4)
    with pytest.raises(SettingError) as error:
        RunFolder(changed, devices)

    assert "seed (was 0, is 4), learning_rate (was 0.03, is 0.5)" in str(error.value)
    assert "--allow-changes" in str(error.value) and "max_steps" not in str(error.value)
    allowed = RunFolder(replace(changed, allow_changes=True), devices)
    allowed.release()
    assert allowed.start.step == 24
    allowed.check_data(3, {})
    settings, data = capsys.readouterr().err.splitlines()
    assert settings.startswith("allowed: settings differ from those of ")
    assert settings.endswith("seed (was 0, is 4), learning_rate (was 0.03, is 0.5)")
    assert data == "allowed: the training set has 3 samples and had 1257 up to step 24"


@dataclass(frozen=True, kw_only=True)
class LaterConfig(TrainConfig):
    is_wide: bool = False


def test_a_setting_that_is_newer_than_the_run_had_its_default(single_run: Path) -> None:
    saved = config_to_resume(single_run)
    values = {field.name: getattr(saved, field.name) for field in fields(saved)}
    devices = find_devices(saved, "single")
    RunFolder(LaterConfig(**values), devices).release()
    with pytest.raises(SettingError, match=r"is_wide \(was False, is True\); try --config"):
        RunFolder(LaterConfig(**{**values, "is_wide": True}), devices)


def test_a_checkpoint_with_other_random_numbers_is_refused(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resume, "RANDOM_NUMBERS", "those of the next version")
    config = config_to_resume(single_run)
    devices = find_devices(config, "single")
    with pytest.raises(SettingError, match=r"earlier version.*try --allow-changes to resume"):
        RunFolder(config, devices)
    allowed = RunFolder(replace(config, allow_changes=True), devices)
    allowed.release()

    assert allowed.start.step == 24


def test_another_training_set_size_and_fewer_steps_than_done_are_refused(single_run: Path) -> None:
    config = config_to_resume(single_run)
    devices = find_devices(config, "single")
    run_folder = RunFolder(config, devices)
    run_folder.release()
    with pytest.raises(SettingError, match="has 1256 samples and had 1257"):
        run_folder.broadcast_start(1256, describe(config), Classifier())
    with pytest.raises(SettingError, match=r"describe in data\.py returns other classes"):
        run_folder.broadcast_start(1257, {"classes": ["cat", "dog"]}, Classifier())
    step = run_folder.broadcast_start(1257, describe(config), Classifier()).step
    with pytest.raises(SettingError, match="at step 24 and the run ends at step 10"):
        make_plan(replace(config, max_steps=10), devices, num_train_samples=1257, start_step=step)


def test_there_must_be_something_to_resume(tmp_path: Path) -> None:
    devices = find_devices(TrainConfig(), "single")
    with pytest.raises(SettingError, match="holds no run to resume; try --resume auto"):
        RunFolder(TrainConfig(run_dir=tmp_path / "none", resume="must"), devices)
    with pytest.raises(SettingError, match="needs a run folder; try --run-dir"):
        TrainConfig(resume="auto")
    run_train(tmp_path / "new", "--resume", "auto", *SAVING, program="reference.single")
    assert read_summary(tmp_path / "new")["resumed_from"] is None


def test_a_finished_run_without_checkpoints_is_not_started_over(tmp_path: Path) -> None:
    flags = ["--max-steps", 2, "--tracker", "none", "--checkpoint-every", 0]
    run_train(tmp_path, *flags, program="reference.single")
    before = read_metrics(tmp_path)
    with pytest.raises(SettingError, match="holds a finished run and no valid checkpoint"):
        run_train(tmp_path, *flags, "--resume", "auto", "--seed", 5, program="reference.single")

    assert read_metrics(tmp_path) == before
    assert read_summary(tmp_path)["optimizer_steps"] == 2


def test_resuming_removes_earlier_results(tmp_path: Path, at_step: Callable[..., None]) -> None:
    run_train(tmp_path, *SAVING, "--max-steps", 4, program="reference.single")
    pictures = tmp_path / "pictures"
    assert (tmp_path / WEIGHTS).exists() and (pictures / PICTURE).exists()
    (tmp_path / "mine.png").touch()
    (tmp_path / "checkpoints" / ".step_00000009.part").mkdir()
    (tmp_path / ".summary.json.part").touch()
    at_step(6, stop)
    run_train(tmp_path, *SAVING, "--resume", "must", program="reference.single")

    assert list(tmp_path.rglob("*.part")) == []
    assert not (tmp_path / WEIGHTS).exists() and not pictures.exists()
    assert (tmp_path / "mine.png").exists()
    assert "test_loss" not in read_summary(tmp_path)


def test_a_corrupted_checkpoint_is_renamed_and_the_previous_one_used(
    single_run: Path,
    tmp_path: Path,
    at_step: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
) -> None:
    at_step(11, stop)
    run_train(tmp_path, *SAVING, program="reference.single")
    latest, before, *_ = saved_steps(tmp_path)
    file = checkpoint_folder(tmp_path, latest) / WEIGHTS
    file.write_bytes(file.read_bytes()[:-100])
    at_step(NEVER, stop)
    run_train(tmp_path, *SAVING, "--resume", "must", program="reference.single")

    assert f"step_{latest:08d} is corrupted and skipped: {WEIGHTS} has" in capsys.readouterr().err
    assert read_summary(tmp_path)["resumed_from"] == before == 10
    assert (tmp_path / "checkpoints" / f"step_{latest:08d}.corrupted").is_dir()
    assert_same_run(tmp_path, single_run)


def test_a_folder_in_use_is_refused(single_run: Path) -> None:
    config = config_to_resume(single_run)
    with FileLock(single_run / ".lock"), pytest.raises(SettingError, match="is in use by process"):
        RunFolder(config, find_devices(config, "single"))


def test_a_folder_that_another_run_took_in_between_is_refused(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path / "run", resume="auto")
    run_folder = RunFolder(config, find_devices(config, "single"))
    run_train(tmp_path / "run", "--max-steps", 1, program="reference.single")
    with pytest.raises(SettingError, match="was taken by another run just now"):
        run_folder.__enter__()
    run_folder.release()

    assert read_summary(tmp_path / "run")["optimizer_steps"] == 1


@NEEDS_EXACT_FSDP2
def test_averaged_weights_are_evaluated_saved_and_resumed_on_any_placement(
    tmp_path: Path, at_step: Callable[..., None]
) -> None:
    averaging = [*SAVING, "--ema-decay", 0.9, "--keep-checkpoints", 0]
    whole = run_train(tmp_path / "whole", *averaging, program="reference.single")
    at_step(14, stop)
    run_train(tmp_path / "stopped", *averaging, program="reference.single")
    for program in ("reference.fsdp2", "reference.ddp"):
        folder = shutil.copytree(tmp_path / "stopped", tmp_path / program)
        # Without checkpoints, which would make FSDP2 drop what it has gathered.
        flags = [*averaging, "--checkpoint-every", 0, "--resume", "must"]
        run_train(folder, *flags, program=program, num_processes=2)
        assert_same_run(folder, whole)
    last = checkpoint_folder(whole, 24)
    final, averaged, raw = (
        load_file(file) for file in (whole / WEIGHTS, last / "average.safetensors", last / WEIGHTS)
    )

    assert all(torch.equal(value, averaged[name]) for name, value in final.items())
    assert not torch.equal(final["head.weight"], raw["head.weight"])
    # What was logged is what the final weights give.
    model = Classifier().eval()
    load_weights(last, model)
    test_set = load("test")
    with torch.no_grad():
        loss = torch.nn.functional.cross_entropy(model(test_set.inputs), test_set.targets)
    assert read_summary(whole)["test_loss"] == pytest.approx(loss.item(), rel=1e-5)


def test_log_and_tensorboard_show_each_step_once_after_a_crash(
    single_run: Path, tmp_path: Path, at_step: Callable[..., None]
) -> None:
    def crash() -> None:
        raise ZeroDivisionError

    settings = [*SAVING, "--tracker", "tensorboard"]
    at_step(16, crash)
    with pytest.raises(ZeroDivisionError):
        run_train(tmp_path, *settings, "--checkpoint-every", 11, program="reference.single")
    assert read_metrics(tmp_path)[-1]["step"] == 15
    at_step(NEVER, crash)
    settings += ["--checkpoint-every", 11, "--resume", "must"]
    run_train(tmp_path, *settings, program="reference.single")
    shown = EventAccumulator(str(tmp_path / PACKAGE)).Reload().Scalars("train/loss")

    assert read_summary(tmp_path)["resumed_from"] == 11
    assert_same_run(tmp_path, single_run)
    assert [event.step for event in shown] == [1, 3, 6, 9, 12, 15, 18, 21, 24]


def test_a_tracker_resumes_its_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a fake wandb: as for trackio, this project chooses the run id."""
    started: list[dict[str, Any]] = []
    configured: list[dict[str, Any]] = []

    class FakeWandb:
        requires_logging_directory = False

        def __init__(self, project: str, **arguments: Any) -> None:
            started.append(arguments)

        def start(self) -> None: ...

        def store_init_configuration(self, values: dict[str, Any]) -> None:
            configured.append(values)

    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "wandb", FakeWandb)
    for run_dir, first_step in ((tmp_path / "a", 1), (tmp_path / "a", 5), (tmp_path / "b", 1)):
        run_dir.mkdir(exist_ok=True)
        Tracker(TrainConfig(tracker="wandb"), run_dir, is_main_process=True, first_step=first_step)

    assert [arguments["resume"] for arguments in started] == ["allow"] * 3
    assert started[0]["id"] == started[1]["id"] != started[2]["id"]
    assert len(configured) == 2


@pytest.fixture
def bad_loss(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the loss of one micro-batch of step 8 infinite."""
    calls = 0

    def infinite_once(model: torch.nn.Module, batch: tuple[Tensor, Tensor]) -> tuple[Tensor, int]:
        nonlocal calls
        calls += 1
        loss, items = compute_loss(model, batch)
        # The first three calls are those of the trial.
        return (loss * torch.inf if calls == 3 + 7 * 8 + 3 else loss), items

    monkeypatch.setattr(single, "compute_loss", infinite_once)


@pytest.mark.usefixtures("bad_loss")
def test_a_loss_that_is_not_finite_stops_the_run_at_its_step(tmp_path: Path) -> None:
    with pytest.raises(RunError) as error:
        run_train(tmp_path, *SAVING, program="reference.single")

    assert str(error.value).startswith("step 8: loss or gradient is NaN or inf")
    assert "--skip-nonfinite" in str(error.value) and "step_00000004" in str(error.value)
    assert saved_steps(tmp_path) == [4]
    assert [line["step"] for line in read_metrics(tmp_path)] == [1, 3, 6]


@pytest.mark.usefixtures("bad_loss")
def test_a_signal_after_a_nonfinite_step_saves_no_checkpoint(
    tmp_path: Path, at_step: Callable[..., None]
) -> None:
    at_step(9, stop)
    rarely = ["--log-every", 100, "--eval-every", 0, "--checkpoint-every", 0, "--max-steps", 20]
    with pytest.raises(RunError, match=r"^step 8: loss or gradient is NaN or inf"):
        run_train(tmp_path, *rarely, "--tracker", "none", program="reference.single")
    assert saved_steps(tmp_path) == []


@pytest.mark.usefixtures("bad_loss")
def test_a_nonfinite_step_can_be_skipped_and_is_counted(
    tmp_path: Path, at_step: Callable[..., None]
) -> None:
    at_step(10, stop)
    run_train(tmp_path, *SAVING, "--skip-nonfinite", program="reference.single")
    assert read_manifest(checkpoint_folder(tmp_path, 10))["skipped_steps"] == 1
    run_train(tmp_path, *SAVING, "--resume", "must", program="reference.single")

    assert read_summary(tmp_path)["skipped_steps"] == 1
    weights: dict[str, Any] = load_file(tmp_path / WEIGHTS)
    assert all(value.isfinite().all() for value in weights.values())


def test_the_fp16_loss_scale_is_restored(single_run: Path) -> None:
    config = config_to_resume(single_run)
    devices = find_devices(config, "single")
    run_folder = RunFolder(config, devices)
    run_folder.release()
    before, after = (torch.amp.GradScaler("cpu", init_scale=scale) for scale in (1024.0, 2.0))
    model = Classifier()
    state = TrainingState(devices, model, make_optimizer(model, config), before)
    start = replace(run_folder.start, scaler=state.scaler_state())
    restored = TrainingState(devices, model, make_optimizer(model, config), after)
    restored.restore(start, run_folder.checkpoint)

    assert after.get_scale() == 1024


def test_a_checkpoint_of_another_model_is_refused(single_run: Path) -> None:
    config = config_to_resume(single_run)
    devices = find_devices(config, "single")
    run_folder = RunFolder(config, devices)
    run_folder.release()
    model = Classifier()
    model.head = torch.nn.Linear(3, 10)
    state = TrainingState(devices, model, make_optimizer(model, config), None)
    with pytest.raises(
        SettingError, match=r"model.safetensors does not fit the model.*head.weight"
    ):
        state.restore(run_folder.start, run_folder.checkpoint)


def test_parameters_without_gradients_have_no_optimizer_state_after_resuming(
    single_run: Path, tmp_path: Path
) -> None:
    """A part of the model that is not used yet trains as in an uninterrupted run."""
    config = replace(config_to_resume(single_run), run_dir=tmp_path)
    devices = find_devices(config, "single")

    def make_state() -> TrainingState:
        torch.manual_seed(0)
        model = torch.nn.ModuleDict({"used": torch.nn.Linear(2, 2), "idle": torch.nn.Linear(2, 2)})
        return TrainingState(devices, model, make_optimizer(model, config), None)

    def step(state: TrainingState, *names: str) -> None:
        layers: Any = state.model
        torch.autograd.backward(sum(layers[name](torch.ones(1, 2)).sum() for name in names))
        state.optimizer.step()
        state.optimizer.zero_grad()

    uninterrupted, resumed = make_state(), make_state()
    for first in ([], ["used"]):
        if first:
            step(uninterrupted, *first)
        write_checkpoint(tmp_path, 1, uninterrupted.tensors(), {})
        resumed = make_state()
        resumed.restore(Progress(step=1), checkpoint_folder(tmp_path, 1))
        shutil.rmtree(checkpoint_folder(tmp_path, 1))

    idle = [parameter for name, parameter in resumed.model.named_parameters() if "idle" in name]
    assert not any(parameter in resumed.optimizer.state for parameter in idle)
    for state in (uninterrupted, resumed):
        step(state, "used", "idle")
    expected, found = uninterrupted.tensors(), resumed.tensors()
    for name, tensors in expected.items():
        assert tensors.keys() == found[name].keys()
        assert all(torch.equal(value, found[name][key]) for key, value in tensors.items())


@pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")
def test_a_data_loader_worker_survives_stop_signals() -> None:
    config = TrainConfig(num_workers=1)
    devices = find_devices(config, "single")
    validation_set = load("validation")
    batches = iter(EvaluationLoader(validation_set, collate, config, devices))
    next(batches)
    [reader] = multiprocessing.active_children()
    for number in SIGNALS:
        os.kill(reader.pid or 0, number)
    time.sleep(0.3)

    assert reader.is_alive()
    assert len(list(batches)) == len(validation_set) // config.micro_batch_size


def test_a_checkpoint_is_selected_by_name(single_run: Path, tmp_path: Path) -> None:
    before, latest = sorted(saved_steps(single_run))
    for name, step in ((f"step_{before:08d}", before), ("latest", latest)):
        assert weights_folder(single_run, name) == checkpoint_folder(single_run, step)
    with pytest.raises(SettingError, match=r"no checkpoint .*step_00000003; try .*step_0"):
        weights_folder(single_run, "step_00000003")
    with pytest.raises(SettingError, match=r"has no final weights$"):
        weights_folder(tmp_path, None)


def test_data_loader_workers_persist_between_evaluations() -> None:
    config = TrainConfig(num_workers=1)
    loader = EvaluationLoader(load("validation"), collate, config, find_devices(config, "single"))
    readers = []
    for _ in range(2):
        list(loader)
        readers.append([process.pid for process in multiprocessing.active_children()])
    assert readers[0] == readers[1] != []


def test_the_best_checkpoint_can_be_evaluated(single_run: Path) -> None:
    lines = [line for line in read_metrics(single_run) if line["split"] == "validation"]
    best = min(lines, key=lambda line: line["loss"])
    done = launch(
        "evaluate", "--run-dir", single_run, "--checkpoint", "best", "--split", "validation"
    )

    assert read_summary(single_run)["best_step"] == best["step"]
    assert f"{best['loss']:.4f}" in done.stdout, done.stderr
    # Tables fold long paths.
    assert f"step_{best['step']:08d}" in "".join(done.stdout.split())
