"""Unit tests of the parts of a run."""

import json
import os
import subprocess
import time
import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from my_run.batches.plan import Plan, make_plan
from my_run.batches.seeds import seed_torch
from my_run.checkpoint import checkpoints
from my_run.checkpoint.checkpoints import Checkpoints
from my_run.checkpoint.progress import Progress
from my_run.checkpoint.state import TrainingState
from my_run.distributed.devices import find_devices
from my_run.distributed.finite import FiniteCheck
from my_run.exact import own_state
from my_run.run import fsdp2_checks, speed
from my_run.run.call_order import END, calls_noted
from my_run.run.environment import (
    MAX_DIFF_CHARACTERS,
    describe_code,
)
from my_run.run.folder import RunFolder
from my_run.run.fsdp2_checks import calls_checked
from my_run.run.metrics_file import append_metrics
from my_run.run.peak_flops import peak_flops
from my_run.run.plan_table import show_plan
from my_run.run.run import Run
from my_run.run.stopwatch import Stopwatch
from my_run.run.trial import Trial
from my_run.settings.errors import (
    RunError,
    SettingError,
    errors_in_one_line,
)

from .tiny.config import TrainConfig

CPU = torch.device("cpu")


def plan_of(**settings: Any) -> Plan:
    config = TrainConfig(**settings)
    return make_plan(config, find_devices(config, "single"), num_train_samples=1000)


def test_the_first_step_that_is_not_finite_is_remembered() -> None:
    finite, one = FiniteCheck(CPU, skip_nonfinite=False, check_gradients=True), torch.ones(2)
    assert finite.first_step() is None
    for step, losses, norm in ((1, one, 1.0), (2, one, torch.nan), (3, one * torch.inf, 1.0)):
        assert finite.should_step(step, losses, torch.tensor(norm))

    assert (finite.first_step(), finite.skipped_steps) == (2, 0)


def test_a_step_that_is_not_finite_is_skipped_and_counted() -> None:
    finite = FiniteCheck(CPU, skip_nonfinite=True, check_gradients=True, skipped_steps=4)
    steps = [(1.0, 1.0), (torch.nan, 1.0), (1.0, torch.inf)]
    may_step = [finite.should_step(1, torch.tensor([a]), torch.tensor(b)) for a, b in steps]

    assert may_step == [True, False, False]
    assert (finite.skipped_steps, finite.first_step()) == (6, None)


def test_overflowing_gradients_of_fp16_are_left_to_the_scaler() -> None:
    finite = FiniteCheck(CPU, skip_nonfinite=False, check_gradients=False)

    assert finite.should_step(1, torch.ones(1), torch.tensor(torch.inf))
    assert finite.first_step() is None


def test_a_stopwatch_excludes_its_pauses() -> None:
    stopwatch = Stopwatch(10.0, CPU)
    time.sleep(0.1)
    assert stopwatch.seconds == 10.0
    stopwatch.start()
    time.sleep(0.1)
    with stopwatch.paused() as pause:
        time.sleep(0.4)
    time.sleep(0.1)

    assert pause.seconds >= 0.4
    assert 10.2 <= stopwatch.seconds < 10.4


def test_checkpoints_are_due_at_their_interval_the_end_and_the_best(tmp_path: Path) -> None:
    plan = plan_of(max_steps=10, checkpoint_every=4)
    state: Any = None
    saver = Checkpoints(
        *(plan, Progress(), state, tmp_path), data_info={}, synced_first=tmp_path / "log"
    )
    for step, loss in ((2, 0.5), (3, float("nan")), (5, 0.6), (7, 0.4)):
        saver.record_validation(step, loss, is_highest_best=False)
        assert saver.due_at(step) == (step in (2, 7))

    assert [step for step in range(1, 11) if saver.due_at(step)] == [4, 7, 8, 10]
    assert saver.progress.best_value == 0.4
    highest = Checkpoints(
        *(plan, Progress(), state, tmp_path), data_info={}, synced_first=tmp_path / "log"
    )
    for step, value in ((1, 0.5), (2, 0.4), (3, 0.6)):
        highest.record_validation(step, value, is_highest_best=True)
        assert highest.progress.validations_since_best == (step == 2)
    assert (highest.progress.best_step, highest.progress.best_value) == (3, 0.6)
    off = Checkpoints(
        plan_of(max_steps=10, checkpoint_every=0),
        *(Progress(best_step=3), state, tmp_path),
        data_info={},
        synced_first=tmp_path / "log",
    )
    assert not any(off.due_at(step) for step in range(1, 11))


def test_the_loop_syncs_exactly_where_something_is_due() -> None:
    plan = plan_of(max_steps=23, log_every=5, eval_every=7, checkpoint_every=4)
    due = {
        step
        for step in plan.steps
        if plan.logs_at(step) or plan.validates_at(step) or plan.saves_at(step)
    }

    assert {step for step in plan.steps if plan.syncs_at(step)} == due
    assert due == {1, 4, 5, 7, 8, 10, 12, 14, 15, 16, 20, 21, 23}


def test_a_folder_is_locked_while_it_is_open_and_says_how_to_resume(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path / "run")
    devices = find_devices(config, "single")
    folder = RunFolder(config, devices)
    assert not (tmp_path / "run").exists()
    again = replace(config, resume="auto")
    with pytest.raises(RunError, match=r"^the cause\. There is no checkpoint yet; resume"), folder:
        assert (tmp_path / "run" / "config.yaml").exists()
        with pytest.raises(SettingError, match="in use by process"):
            RunFolder(again, devices)
        raise RunError("the cause")
    RunFolder(again, devices).release()


def test_a_failed_run_is_unlocked_after_its_last_checkpoint_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[float] = []

    def write_slowly(*arguments: object) -> None:
        time.sleep(0.3)
        written.append(time.monotonic())

    monkeypatch.setattr(checkpoints, "write_checkpoint", write_slowly)
    config = TrainConfig(run_dir=tmp_path / "run", max_steps=2)
    devices = find_devices(config, "single")
    plan = make_plan(config, devices, num_train_samples=1000)
    folder, model = RunFolder(config, devices), torch.nn.Linear(2, 2)
    state = TrainingState(devices, model, torch.optim.SGD(model.parameters()), None)
    released: list[float] = []
    release = folder.release

    def note_release() -> None:
        released.append(time.monotonic())
        release()

    monkeypatch.setattr(folder, "release", note_release)
    run_of = Run(plan, folder, state, Trial([], [], 1, 0.0), ("loss", "lowest"), "samples")
    with pytest.raises(ZeroDivisionError), run_of as run:
        append_metrics(folder.path, {"split": "train", "step": 1})
        run.save(1)
        raise ZeroDivisionError

    assert written and written[0] <= released[0]


def test_a_failed_write_names_its_file_and_other_errors_pass(tmp_path: Path) -> None:
    config = TrainConfig(run_dir=tmp_path / "run")
    folder = RunFolder(config, find_devices(config, "single"))
    with pytest.raises(RunError, match=r"missing/file: No such file"), folder.writing():
        (tmp_path / "missing" / "file").write_text("")
    with pytest.raises(FileNotFoundError, match="of the user's data"), folder:
        raise FileNotFoundError("a file of the user's data")


def test_only_generators_in_use_are_seeded_with_the_same_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """`torch.manual_seed` formats a stack trace for each device that is not there."""
    torch.manual_seed(5)
    expected = torch.rand(4)

    def refuse(*arguments: object) -> None:
        raise AssertionError("a stack trace for a device that is not there")

    monkeypatch.setattr(traceback, "format_stack", refuse)
    if torch.accelerator.is_available():
        monkeypatch.undo()
    seed_torch(5)

    assert torch.equal(torch.rand(4), expected)


def git(folder: Path, *arguments: str) -> str:
    """Run git without the user's configuration."""
    settings = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_SYSTEM": os.devnull}
    command = ["git", "-c", "user.name=Test", "-c", "user.email=test@example.org", *arguments]
    return subprocess.run(
        command, cwd=folder, check=True, capture_output=True, text=True, env=os.environ | settings
    ).stdout


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """A package in a repository, with one commit."""
    folder = tmp_path / "repository" / "src" / "package"
    folder.mkdir(parents=True)
    (folder / "model.py").write_text("width = 1\n", encoding="utf-8")
    root = tmp_path / "repository"
    (root / ".gitignore").write_text("ignored.py\n", encoding="utf-8")
    git(root, "init", "--quiet")
    git(root, "add", "--all")
    git(root, "commit", "--quiet", "--message", "First")
    return folder


def test_the_code_of_a_clean_repository_is_its_commit(package: Path) -> None:
    assert describe_code(package) == {
        "git_commit": git(package, "rev-parse", "HEAD").strip(),
        "git_is_clean": True,
        "git_diff": None,
        "git_diff_is_complete": True,
    }


def test_the_diff_restores_uncommitted_code(package: Path, tmp_path: Path) -> None:
    changed = {"model.py": "width = 2  # ü\n", "new.py": "new = 1\n"}
    for name, text in changed.items():
        (package / name).write_text(text, encoding="utf-8")
    (package / "ignored.py").write_text("secret = 1\n", encoding="utf-8")
    git(package, "config", "diff.noprefix", "true")
    git(package, "config", "color.ui", "always")
    code = json.loads(json.dumps(describe_code(package)))

    assert (code["git_is_clean"], code["git_diff_is_complete"]) == (False, True)
    assert "secret" not in code["git_diff"]
    root = package.parents[1]
    git(root, "stash", "--quiet", "--include-untracked")
    patch = tmp_path / "patch"
    patch.write_text(code["git_diff"], encoding="utf-8", newline="\n")
    git(root, "apply", str(patch))
    for name, text in changed.items():
        assert (package / name).read_text(encoding="utf-8") == text


def test_the_diff_keeps_line_ends_and_other_encodings(package: Path, tmp_path: Path) -> None:
    root, file = package.parents[1], package / "model.py"
    git(root, "config", "core.autocrlf", "false")
    git(root, "config", "diff.context", "0")
    file.write_bytes(b"a = 1\r\nb = 2\rc = 3\n# \xe9\n")
    git(root, "commit", "--quiet", "--all", "--message", "Line ends")
    changed = b"a = 2\r\nb = 2\rc = 3\n# \xe8\n"
    file.write_bytes(changed)
    code = describe_code(package)
    git(root, "stash", "--quiet")
    patch = tmp_path / "patch"
    patch.write_bytes(code["git_diff"].encode("utf-8", "surrogateescape"))
    git(root, "apply", str(patch))

    assert code["git_diff_is_complete"] and file.read_bytes() == changed


def test_what_the_diff_leaves_out_makes_it_incomplete(package: Path) -> None:
    (package / "weights.bin").write_bytes(bytes(range(256)))
    git(package, "add", ".")
    assert not describe_code(package)["git_diff_is_complete"]
    git(package, "reset", "--quiet")
    for index in range(51):
        (package / f"new_{index}.py").touch()
    assert not describe_code(package)["git_diff_is_complete"]


def test_a_large_diff_is_cut_off_and_says_so(package: Path) -> None:
    (package / "model.py").write_text("a = 1\n" * MAX_DIFF_CHARACTERS, encoding="utf-8")
    code = describe_code(package)

    assert len(code["git_diff"]) == MAX_DIFF_CHARACTERS
    assert not code["git_diff_is_complete"]


def test_code_in_no_repository_is_not_called_clean(tmp_path: Path) -> None:
    code = describe_code(tmp_path)
    assert str(tmp_path) in code.pop("git_is_missing_because")
    assert set(code.values()) == {None}


@pytest.mark.parametrize("items", ["samples", "tokens"])
def test_the_speed_is_that_of_the_steps_since_the_last_call(
    items: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, stopwatch = plan_of(global_batch_size=32), Stopwatch(10.0, CPU)
    monkeypatch.setattr(speed, "peak_flops", lambda devices, precision: 4000.0)
    found = speed.Speed(plan, stopwatch, Trial([], [], 5, flops_per_sample=100.0), items)
    stopwatch._before = 12.0
    assert found.since_last(8, items=160.0) == {
        "samples_per_second": 128.0,
        **({"tokens_per_second": 640.0} if items == "tokens" else {}),
        "model_flops_utilization": 3.2,
    }
    stopwatch._before = 13.0
    rate = found.since_last(9, items=160.0)["samples_per_second"]
    assert rate == pytest.approx(32.0, rel=0.1)


def test_the_seconds_of_training_do_not_count_the_measurement_of_the_peak(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def measure(devices: object, precision: object) -> float:
        time.sleep(0.5)
        return 1.0

    plan, stopwatch = plan_of(), Stopwatch(0.0, CPU)
    monkeypatch.setattr(speed, "peak_flops", measure)
    stopwatch.start()
    speed.Speed(plan, stopwatch, Trial([], [], 5, 100.0), "samples").since_last(1, items=1.0)
    assert stopwatch.seconds < 0.4


def test_the_peak_is_that_of_the_data_sheet_or_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    devices = plan_of().devices
    assert 1e8 < peak_flops(devices, "no") < 1e14
    names = {"NVIDIA H100 80GB HBM3": 989e12, "NVIDIA A100-SXM4-40GB": 312e12, "NVIDIA L4": 121e12}
    for name, peak in names.items():
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device, name=name: name)
        gpus = replace(devices, device=torch.device("cuda", 0), world_size=4)
        assert peak_flops(gpus, "bf16") == 4 * peak


def test_what_forward_passes_change_is_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = torch.nn.Module()
    other.register_buffer("same", torch.ones(2))
    other.register_buffer("flags", torch.tensor([True, False]))
    other.register_buffer("count", torch.ones(3, dtype=torch.bfloat16))
    other.register_buffer("mask", torch.ones(()))
    model = torch.nn.ModuleDict({"norm": torch.nn.BatchNorm1d(3), "other": other})

    def gather(mine: dict[str, str]) -> list[dict[str, str]]:
        """As if another rank had other counts and weights, and had not cached a mask."""
        differing = {"other.count", "other.mask", "norm.weight"}
        assert mine.keys() >= differing | {"other.same", "other.flags", "teacher.weight"}
        return [mine, {name: value for name, value in mine.items() if name not in differing}]

    monkeypatch.setattr(own_state, "is_distributed", lambda: True)
    monkeypatch.setattr(own_state, "gather_from_ranks", gather)
    teacher = torch.nn.Linear(3, 3).requires_grad_(False)
    model["teacher"] = teacher
    changes = own_state.OwnChanges(model)
    changes.warn(plan_of().devices)
    teacher.weight.data.lerp_(torch.ones(3, 3), 0.01)
    changes.warn(plan_of().devices)
    first, second = capsys.readouterr().err.splitlines()
    changed = "other.count, other.mask, norm.weight, on each rank"
    assert f"the forward pass changes {changed}" in first
    assert f"the forward pass changes teacher.weight, {changed}" in second
    with pytest.raises(AssertionError):  # No weights: each rank has shards of its own.
        own_state.differing_state(model, has_shards=True)


def test_an_operation_without_a_deterministic_kernel_ends_in_one_line(
    capsys: pytest.CaptureFixture[str],
) -> None:
    torch.use_deterministic_algorithms(True)
    try:
        with pytest.raises(SystemExit, match="2"), errors_in_one_line():
            torch.zeros(3).put_(torch.tensor([0]), torch.ones(1))
    finally:
        torch.use_deterministic_algorithms(False)
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: put_ has no deterministic kernel") and "--no-exact" in line
    with pytest.raises(RuntimeError, match="another"), errors_in_one_line():
        raise RuntimeError("another")


def fully_shard() -> None:
    """Fail as FSDP2's function of this name does for scalars and other memory layouts."""
    raise ValueError("no scalar parameters")


def test_a_model_that_fsdp2_cannot_shard_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"), errors_in_one_line():
        fully_shard()
    [line] = capsys.readouterr().err.splitlines()
    assert line.startswith("error: model.py: FSDP2 cannot shard this model (ValueError: no scalar")
    assert line.endswith("use DDP")


@pytest.mark.parametrize(
    ("trial", "reason"),
    [
        (Trial(["bias"], [], 1, 0.0), r"bias had no gradient .* or try DDP"),
        (Trial([], [], 1, 0.0, has_second_derivative=True), r"has a gradient in it, .* try DDP"),
    ],
)
def test_fsdp2_refuses_what_it_cannot_train(trial: Trial, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        show_plan(fsdp2_plan(), Progress(), {}, torch.nn.Linear(2, 2), trial)


def fsdp2_plan() -> Plan:
    config = TrainConfig(placement="cpu")
    return make_plan(config, replace(find_devices(config, "single"), strategy="fsdp2"), 100)


class Routed(torch.nn.Module):
    """Drops the first layer if it is told to, and uses some of two experts."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.last = torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)
        self.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2), torch.nn.Linear(2, 2)])

    def forward(self, values: Tensor, is_dropped: bool = False, expert: int | None = 0) -> Tensor:
        if not is_dropped:
            values = self.layer(values)
        for _ in range(int(values.numel())):  # As often as there are values.
            for one in self.experts if expert is None else [self.experts[expert]]:
                values = one(values)
        last: Tensor = self.last(values)
        return last


def test_fsdp2_refuses_a_pass_that_calls_other_modules(monkeypatch: pytest.MonkeyPatch) -> None:
    """As if model and layers were sharded; each rank may drop one, or use another expert."""
    model, calls, inputs = Routed(), list[str](), torch.ones(1, 2)
    monkeypatch.setattr(
        fsdp2_checks, "sharded_modules", lambda model: [model, model.layer, model.last]
    )
    with calls_noted(model, calls.append):
        model(inputs)
        model(inputs, expert=1)
        model.eval()(inputs)
        model.train()
    assert calls[:6] == ["", "layer", "experts.0", "experts.0", "last", END] and len(calls) == 12
    trial, plan = Trial([], [], 1, 0.0, calls=calls), fsdp2_plan()
    with calls_checked(model, plan, trial):
        for count in (1, 3):
            model(torch.ones(count, 2))
            model(torch.ones(count, 2), expert=1)
        model.eval()(inputs, is_dropped=True)
        model.last(inputs)
        model.train()
    for options, reason in (
        ({"is_dropped": True}, "comes to last, and came to layer in the first micro-batch"),
        ({"expert": 1}, r"does not call experts\.0, and did in the first micro-batch"),
        ({"expert": None}, r"calls experts\.1, and did not in the first micro-batch"),
    ):
        with pytest.raises(SettingError, match=reason), calls_checked(model, plan, trial):
            model(inputs, **options)
