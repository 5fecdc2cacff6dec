"""Whole runs, as a person starts them."""

import json
import os
import random
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn.functional import cross_entropy

from my_run import evaluate
from my_run.batches import evaluation
from my_run.batches.evaluation import Evaluation
from my_run.batches.loaders import EvaluationLoader
from my_run.distributed.devices import (
    Devices,
    find_devices,
)
from my_run.reference import single
from my_run.run import folder
from my_run.run.folder import RunFolder
from my_run.run.trackers import check_tracker
from my_run.settings.errors import SettingError

from .launching import (
    TIMEOUT_SECONDS,
    launch,
    read_metrics,
    read_summary,
    run_train,
    tiny_job,
    tiny_sources,
    weight_difference,
)
from .tiny.config import TrainConfig
from .tiny.data import NUM_CLASSES, SECONDS_PER_BATCH, load
from .tiny.model import Classifier, score, summarize
from .tiny.pictures import PICTURE

CPU = torch.device("cpu")


def test_a_run_writes_all_its_files(single_run: Path) -> None:
    assert {path.name for path in single_run.iterdir() if path.is_file()} == {
        ".lock",
        "config.yaml",
        "curves.png",
        "data.json",
        "environment.json",
        "metrics.jsonl",
        "model.safetensors",
        "summary.json",
    }
    assert list(single_run.rglob("events.out.tfevents.*")), "TensorBoard is the default tracker"
    environment = json.loads((single_run / "environment.json").read_text(encoding="utf-8"))
    assert environment["packages"]["torch"] == torch.__version__
    with Image.open(single_run / "curves.png") as image:
        assert min(image.size) > 400
    with Image.open(single_run / "pictures" / PICTURE) as image:
        assert image.size == (NUM_CLASSES, NUM_CLASSES)


def test_the_log_has_each_due_step_once(single_run: Path) -> None:
    lines = read_metrics(single_run)
    steps = {
        split: [line["step"] for line in lines if line["split"] == split]
        for split in ("train", "validation", "test")
    }

    assert steps == {
        "train": [1, 3, 6, 9, 12, 15, 18, 21, 24],
        "validation": [10, 20, 24],
        "test": [24],
    }
    assert [line["epoch"] for line in lines if line["split"] == "validation"] == [0, 1, 1]
    train = [line for line in lines if line["split"] == "train"]
    assert [line["epoch"] for line in train] == [0, 0, 0, 0, 0, 0, 0, 1, 1]
    # Up to 0.03 in 5 steps, then down to 0 at step 25: half of it at step 15.
    rates = {line["step"]: line["learning_rate"] for line in train}
    assert (rates[1], rates[3], rates[15]) == pytest.approx((0.006, 0.018, 0.015))


def test_samples_per_second_excludes_evaluation(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluations, here of a second each, are no training."""

    def slow(*arguments: Any) -> Evaluation:
        time.sleep(1)
        return evaluation.evaluate(*arguments)

    monkeypatch.setattr(single, "evaluate", slow)
    monkeypatch.setenv(SECONDS_PER_BATCH, "0.01")
    flags = ["--max-steps", 4, "--log-every", 2, "--eval-every", 2, "--tracker", "none"]
    start = time.monotonic()
    run_train(tmp_path, *flags, program="reference.single")
    seconds = time.monotonic() - start
    summary = read_summary(tmp_path)
    log = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    logged = [
        samples / line["samples_per_second"]
        for samples, line in zip((64, 64, 128), log[0:2] + log[3:4], strict=True)
    ]

    assert [line["split"] for line in log[:2] + log[3:4]] == ["train"] * 3
    assert summary["train_seconds"] < seconds - 3
    assert summary["train_samples_per_second"] * summary["train_seconds"] == pytest.approx(
        4 * 64, rel=0.01
    )
    # What is left is the end of the last step, and copying of checkpoints is in neither.
    assert 0.5 * summary["train_seconds"] < sum(logged) < 1.01 * summary["train_seconds"]


def test_only_the_latest_checkpoints_and_the_best_are_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, 1.0, 4.0, 3.0, 5.0])  # After steps 2, 4, 6 and 8, and of the test.

    def arranged(*arguments: Any) -> Evaluation:
        result = evaluation.evaluate(*arguments)
        return result._replace(results={**result.results, "loss": next(losses)})

    monkeypatch.setattr(single, "evaluate", arranged)
    flags = ["--max-steps", 8, "--eval-every", 2, "--checkpoint-every", 1, "--tracker", "none"]
    run_train(tmp_path, *flags, "--keep-checkpoints", 2, program="reference.single")

    assert read_summary(tmp_path)["best_step"] == 4
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == [
        f"step_{step:08d}" for step in (4, 7, 8)
    ]


def test_validations_that_no_longer_improve_end_the_run_for_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses = iter([2.0, 1.0, 1.5, float("nan"), 9.0, 9.0])  # After steps 2 to 8, and of two tests.

    def arranged(*arguments: Any) -> Evaluation:
        result = evaluation.evaluate(*arguments)
        return result._replace(results={**result.results, "loss": next(losses)})

    monkeypatch.setattr(single, "evaluate", arranged)
    flags = ["--max-steps", 20, "--eval-every", 2, "--patience", 2, "--tracker", "none"]
    for resume in ("never", "must"):
        run_train(tmp_path, *flags, "--resume", resume, program="reference.single")
        summary = read_summary(tmp_path)
        assert (summary["optimizer_steps"], summary["best_step"]) == (8, 4)
        assert summary["stopped_early"] and summary["test_loss"] == 9.0
        assert read_metrics(tmp_path)[-1]["step"] == 8
    assert (tmp_path / "checkpoints" / "step_00000008").is_dir()


def test_random_numbers_of_an_evaluation_are_those_of_the_batch() -> None:
    class Noisy:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, index: int) -> torch.Tensor:
            return torch.rand(1)

    def drawn() -> list[float]:
        return [torch.rand(1).item(), float(np.random.rand()), random.random()]

    def values(num_workers: int, rank: int = 0, world_size: int = 1) -> list[list[float]]:
        config = TrainConfig(num_workers=num_workers)
        devices = Devices("ddp", torch.device("cpu"), rank, world_size)
        loader = EvaluationLoader(Noisy(), None, config, devices)
        batches = [[*batch.flatten().tolist(), *drawn()] for _, batch in loader]
        return [*batches, drawn()]

    alone = values(0)
    assert len({tuple(batch) for batch in alone}) == 4
    assert values(2) == alone
    of_ranks = [values(0, rank, 2) for rank in (0, 1)]
    assert [batches[0] for batches in of_ranks] == alone[:2]
    # Also what `summarize` draws then.
    assert [batches[-1] for batches in of_ranks] == [alone[-1]] * 2


def arrays_of(samples: list[int]) -> tuple[Any, ...]:
    return np.array(samples), np.float64(0.5), samples, "text"


def test_workers_give_batches_as_they_are_read() -> None:
    class Numbers:
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> int:
            return index

    devices = Devices("single", torch.device("cpu"), 0, 1)
    configs = [TrainConfig(num_workers=number) for number in (0, 1)]
    loaders = [EvaluationLoader(Numbers(), arrays_of, config, devices) for config in configs]
    [[(_, here)], [(_, there)]] = map(list, loaders)
    assert [type(part) for part in there] == [type(part) for part in here]
    assert repr(there) == repr(here)


def test_an_evaluation_makes_room_for_the_scores_once(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    new_zeros = torch.Tensor.new_zeros

    def noted(self: torch.Tensor, *sizes: Any, **options: Any) -> torch.Tensor:
        made.append(1)
        return new_zeros(self, *sizes, **options)

    config, devices = TrainConfig(), Devices("single", torch.device("cpu"), 0, 1)
    loader = EvaluationLoader(load("validation"), None, config, devices)
    monkeypatch.setattr(torch.Tensor, "new_zeros", noted)
    evaluation.evaluate(
        torch.nn.Identity(),
        loader,
        lambda network, batch: {"first": batch[0][:, 0], "class": batch[1]},
        lambda scores: {"mean": scores["first"].mean().item()},
    )
    assert len(made) == 2


def test_a_loss_that_draws_from_numpy_and_random_has_the_same_bits_with_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def compute_loss(network: Any, batch: Any) -> tuple[torch.Tensor, int]:
        share = np.random.beta(0.4, 0.4) + random.random()
        return share * cross_entropy(network(batch[0]), batch[1], reduction="sum"), len(batch[1])

    monkeypatch.setattr(single, "compute_loss", compute_loss)
    flags = ["--max-steps", 6, "--tracker", "none", "--num-workers"]
    runs = [
        run_train(tmp_path / num_workers, *flags, num_workers, program="reference.single")
        for num_workers in ("0", "1")
    ]
    assert read_metrics(runs[0]) == read_metrics(runs[1])


def test_workers_read_with_the_threads_of_the_setting() -> None:
    class Threads:
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> int:
            return torch.get_num_threads()

    for threads, expected in ((3, 3), (None, 1)):
        config = TrainConfig(num_workers=1, threads=threads)
        loader = EvaluationLoader(Threads(), None, config, Devices("single", CPU, 0, 1))
        assert [batch.tolist() for _, batch in loader] == [[expected] * 4]


def test_a_compiled_evaluation_is_compiled_once_and_its_results_are_the_same() -> None:
    """The last batch is smaller; backend eager, which needs no compiler."""
    model, validation_set = Classifier(), load("validation")
    assert len(validation_set) % 7
    plain, compiled = (
        TrainConfig(eval_batch_size=7, compile=is_compiled) for is_compiled in (False, True)
    )
    devices = Devices("single", CPU, 0, 1)
    loader = EvaluationLoader(validation_set, None, plain, devices)
    expected = evaluation.evaluate(model, loader, score, summarize)
    model.compile(backend="eager")
    with torch._dynamo.config.patch(error_on_recompile=True):
        loader = EvaluationLoader(validation_set, None, compiled, devices)
        found = evaluation.evaluate(model, loader, score, summarize)

    assert found.results == pytest.approx(expected.results, rel=1e-6)
    assert found.scores["loss"].shape == (len(validation_set),)


def test_the_results_of_an_evaluation_are_numbers() -> None:
    """A large model has too few scores in the trial to summarize them."""
    devices = Devices("single", CPU, 0, 1)
    loader = EvaluationLoader(load("validation"), None, TrainConfig(), devices)

    def as_tensors(scores: Any) -> Any:
        return {"loss": scores["loss"].mean()}

    found = evaluation.evaluate(Classifier(), loader, score, as_tensors).results
    assert type(found["loss"]) is float


def test_all_ranks_decide_by_the_results_of_rank_0(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(evaluation, "broadcast_from_rank_0", lambda mine: {"loss": 9.0})
    loader = EvaluationLoader(load("validation"), None, TrainConfig(), Devices("single", CPU, 0, 1))
    assert evaluation.evaluate(Classifier(), loader, score, summarize).results == {"loss": 9.0}


def test_scores_that_cannot_be_put_together_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """From batches of one rank, and from ranks whose batches agree among themselves."""
    devices = Devices("single", CPU, 0, 1)
    loader = EvaluationLoader(load("validation"), None, TrainConfig(eval_batch_size=7), devices)

    def padded(network: torch.nn.Module, batch: Any) -> dict[str, torch.Tensor]:
        return {"losses": torch.zeros(len(batch[1]), len(batch[1]))}

    with pytest.raises(SettingError, match=r"\(n, 7, float32\) and \(n, 5, float32\) as 'losses'"):
        evaluation.evaluate(Classifier(), loader, padded, summarize)

    def gather(columns: Any) -> list[Any]:
        return [columns, columns[:1]]

    monkeypatch.setattr(evaluation, "gather_from_ranks", gather)
    with pytest.raises(SettingError, match=r"'correct', 'bool'.* on rank 0 and \[\('loss', 'float"):
        evaluation.evaluate(Classifier(), loader, score, summarize)


def test_the_summary_agrees_with_the_log_and_with_the_weights(single_run: Path) -> None:
    summary = read_summary(single_run)
    test_line = read_metrics(single_run)[-1]
    model = Classifier().eval()
    model.load_state_dict(load_file(single_run / "model.safetensors"))
    test_set = load("test")
    with torch.no_grad():
        logits = model(test_set.inputs)
    loss = torch.nn.functional.cross_entropy(logits, test_set.targets)
    accuracy = (logits.argmax(dim=1) == test_set.targets).double().mean()

    assert summary["test_samples"] == test_line["samples"] == 360
    assert summary["test_loss"] == test_line["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert summary["test_accuracy"] == test_line["accuracy"] == pytest.approx(accuracy.item())
    assert (summary["placement"], summary["world_size"]) == ("single", 1)
    assert (summary["optimizer_steps"], summary["gradient_accumulation_steps"]) == (24, 8)


def test_a_repeated_run_gives_the_same_bits(single_run: Path, tmp_path: Path) -> None:
    """Also with DataLoader workers, and settings read from the first run's config.yaml."""
    config = single_run / "config.yaml"
    run_dir = run_train(tmp_path / "again", "--config", config, "--num-workers", 2)

    assert weight_difference(run_dir, single_run) == 0
    assert read_metrics(run_dir) == read_metrics(single_run)


def test_weights_drawn_from_numpy_or_random_follow_from_the_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def drawn(*arguments: Any) -> torch.nn.Module:
        network = Classifier()
        numbers = np.random.randn(network.head.bias.numel()) * random.random()
        network.head.bias.data = torch.from_numpy(numbers).float()
        return network

    monkeypatch.setattr(single, "make_model", drawn)
    one, again = (
        run_train(tmp_path / name, "--max-steps", 1, program="reference.single")
        for name in ("one", "again")
    )
    assert weight_difference(one, again) == 0


def test_the_plan_is_printed_and_nothing_is_written(tmp_path: Path) -> None:
    done = launch("train", "--plan", "--run-dir", tmp_path / "run")

    assert done.returncode == 0, done.stderr
    assert "single: 1 process on" in done.stdout
    assert "19 steps, 1216 of 1257 samples" in done.stdout
    assert not (tmp_path / "run").exists()


def test_the_plan_of_an_existing_run_shows_where_it_resumes(
    single_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    same = ["--config", str(single_run / "config.yaml"), "--plan"]
    run_train(single_run, *same, "--resume", "must", program="reference.single")
    assert "after step 24, computed by single on 1 process" in capsys.readouterr().out
    with pytest.raises(SettingError, match="already holds a run"):
        run_train(single_run, *same, program="reference.single")


# The packages that Accelerate's optimizer searches for in three steps.
SEARCHES = """
import importlib.util
import sys
import torch
from my_run.config import TrainConfig
from my_run.distributed.accelerator import (
    make_accelerator,
)
from my_run.distributed.devices import find_devices

accelerator = make_accelerator(find_devices(TrainConfig(placement="cpu")), "no")
model = torch.nn.Linear(2, 2)
_, optimizer = accelerator.prepare(model, torch.optim.SGD(model.parameters(), lr=1.0))
names, find_spec = [], importlib.util.find_spec
importlib.util.find_spec = lambda name: names.append(name) or find_spec(name)
for _ in range(3):
    optimizer.step()
    optimizer.zero_grad()
sys.stdout.write(f"{names} {torch.optim.Optimizer.zero_grad.__signature__}\\n")
"""


def test_accelerate_looks_things_up_once_and_not_in_every_step(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SEARCHES, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, str(tmp_path / "show.py")],
        env=os.environ | {"PYTHONPATH": str(tiny_sources())},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("lomo_optim") <= 1 and "set_to_none" in done.stdout


def test_evaluate_uses_the_requested_precision_or_that_of_training(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[str] = []

    def note(devices: Devices, mixed_precision: str) -> None:
        asked.append(mixed_precision)
        raise SettingError("seen")

    monkeypatch.setattr(evaluate, "make_accelerator", note)
    for precision in ("bf16", None):
        settings = evaluate.EvaluateConfig(run_dir=single_run, mixed_precision=precision)
        with pytest.raises(SettingError, match="seen"), tiny_job(evaluate):
            evaluate.evaluate_run(settings)
    assert asked == ["bf16", "no"]


def test_evaluate_prepares_the_data_and_refuses_other_data(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared: list[TrainConfig] = []
    with tiny_job(evaluate):
        monkeypatch.setattr(evaluate, "prepare", prepared.append)
        monkeypatch.setattr(evaluate, "describe", lambda config: {"classes": ["cat"]})
        with pytest.raises(SettingError, match=r"describe in data\.py returns other classes"):
            evaluate.evaluate_run(evaluate.EvaluateConfig(run_dir=single_run, placement="cpu"))
    assert [config.seed for config in prepared] == [0]


def test_evaluation_on_three_processes_repeats_the_summary(single_run: Path) -> None:
    done = launch("evaluate", "--run-dir", single_run, num_processes=3)

    assert done.returncode == 0, done.stderr
    summary = read_summary(single_run)
    assert "360" in done.stdout and "3 (ddp, cpu)" in done.stdout
    assert f"{summary['test_loss']:.4f}" in done.stdout
    assert f"{summary['test_accuracy']:.4f}" in done.stdout


def test_an_unusable_run_dir_is_refused_and_unchanged(single_run: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").touch()
    other = tmp_path / "other"
    (other / "pictures" / "a").mkdir(parents=True)
    reasons = {
        single_run: "already holds a run; try --resume auto",
        other: r"holds no run, but pictures, .* overwrite; try --run-dir .*/other-\d+$",
        other / "pictures" / "..": r"overwrite; try --run-dir /.*[^.]-\d+$",
        tmp_path / "notes.txt" / "run": "notes.txt is a file",
    }
    for run_dir, reason in reasons.items():
        config = TrainConfig(run_dir=run_dir)
        devices = find_devices(config, "single")
        with pytest.raises(SettingError, match=reason):
            RunFolder(config, devices)
    RunFolder(TrainConfig(run_dir=tmp_path / "new" / "run"), devices)
    assert {path.name for path in tmp_path.rglob("*")} == {"notes.txt", "other", "pictures", "a"}


def test_two_runs_that_start_in_one_second_have_folders_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(folder, "START_FOLDER", tmp_path)
    devices = find_devices(TrainConfig(), "single")
    both = [RunFolder(TrainConfig(), devices) for _ in range(2)]
    both[1].path = both[0].path
    for run_folder in both:
        run_folder.__enter__()
    names = {path.name for path in (tmp_path / "runs").iterdir()}

    assert {run_folder.path and run_folder.path.name for run_folder in both} == names
    assert len(names) == 2


def test_a_picture_that_fails_is_a_warning_after_the_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*arguments: object) -> None:
        raise ValueError("the user's own mistake")

    monkeypatch.setattr(single, "draw_pictures", fail)
    run_train(tmp_path, "--max-steps", 1, "--tracker", "none", program="reference.single")
    printed = capsys.readouterr()

    assert "Test accuracy" in printed.out and not (tmp_path / "pictures").exists()
    [warning] = printed.err.splitlines()
    assert warning.startswith("warning: draw_pictures failed (")
    assert f"{Path(__file__).name}, line " in warning and "the user's own mistake" in warning
    assert load_file(tmp_path / "model.safetensors")
    assert read_summary(tmp_path)["test_samples"] == 360


def test_nonfinite_values_are_null_in_json_and_never_the_best(tmp_path: Path) -> None:
    diverging = ["--max-steps", 4, "--learning-rate", 1e30, "--max-grad-norm", 0, "--log-every", 1]
    flags = [*diverging, "--skip-nonfinite", "--tracker", "none"]
    run_train(tmp_path, *flags, program="reference.single")
    summary = read_summary(tmp_path)

    assert "NaN" not in (tmp_path / "metrics.jsonl").read_text(encoding="utf-8")
    assert "NaN" not in (tmp_path / "summary.json").read_text(encoding="utf-8")
    assert summary["test_loss"] is None and summary["best_step"] is None
    assert read_metrics(tmp_path)[-1]["loss"] is None


def test_a_trackers_output_folder_is_not_taken_for_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(SettingError, match="tracker trackio is not installed"):
        check_tracker(TrainConfig(tracker="trackio"))


def test_a_tracker_that_is_not_installed_is_refused(tmp_path: Path) -> None:
    done = launch("train", "--tracker", "trackio", "--run-dir", tmp_path / "run")

    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert line.startswith("error: tracker") and "python -m pip install trackio" in line
    assert not (tmp_path / "run").exists()
