"""What the programs need of `config.py`, `data.py`, `model.py` and `optimizer.py`.

These tests know nothing of the job but that, and hold for yours as well.
"""

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from my_run import model as model_file
from my_run.batches.evaluation import (
    check_rows,
    check_same_rows,
)
from my_run.batches.loaders import MicroBatchReader
from my_run.batches.plan import make_plan
from my_run.batches.sampling import MicroBatch
from my_run.batches.seeds import seed_all, seed_torch
from my_run.batches.structure import taken_apart
from my_run.checkpoint.data_info import as_json
from my_run.checkpoint.store import saved_steps
from my_run.config import TrainConfig
from my_run.data import (
    Split,
    collate,
    describe,
    load_split,
    prepare,
)
from my_run.distributed.devices import find_devices
from my_run.model import (
    BEST_RESULT,
    ITEMS,
    SHARD_UNITS,
    compute_loss,
    make_model,
    score,
    summarize,
)
from my_run.optimizer import (
    make_optimizer,
    set_learning_rate,
)
from my_run.run.start import prepare_once
from my_run.run.tables import shown
from my_run.run.trial import (
    Trial,
    try_out,
    try_out_scores,
)
from my_run.run.users_code import read_batch
from my_run.settings.config_file import parse_config
from my_run.settings.values import map_leaves

from .launching import SOURCES, launch, read_metrics, read_summary

SETTINGS: list[str] = []
"""Flags that your job needs, or that make it small enough: "--data-file", "tests/few.csv"."""

ON_A_CPU = ["--placement", "cpu", "--mixed-precision", "no", "--no-compile", "--exact"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NUM_STEPS, STOPPED_AT = 4, 2
STEPS_TO_LEARN = 60
example_inputs: Any = getattr(model_file, "example_inputs", None)
WARNINGS_FILE = "warnings.txt"
FSDP2 = Path(__file__).parents[1] / "launch" / "fsdp2.yaml"


@dataclass
class Job:
    """The job with the settings of these tests."""

    config: TrainConfig
    info: dict[str, Any]
    splits: dict[Split, Any]

    def model(self) -> nn.Module:
        seed_all(self.config.seed)
        return make_model(self.config, self.info)

    def batch(self, split: Split = "train", num_samples: int = 8) -> Any:
        """Return a batch of samples that are spread over a split."""
        dataset = self.splits[split]
        num_samples = min(num_samples, self.config.micro_batch_size, len(dataset))
        stride = len(dataset) // num_samples
        return read_batch(dataset, collate, [stride * index for index in range(num_samples)])

    def total_steps(self) -> int:
        devices = find_devices(self.config, "single")
        return make_plan(self.config, devices, len(self.splits["train"])).total_steps


@pytest.fixture(scope="module")
def config() -> TrainConfig:
    """The settings, for which the data is prepared."""
    config = parse_config(TrainConfig, [*SETTINGS, *ON_A_CPU])
    prepare_once(prepare, config)
    return config


@pytest.fixture(scope="module")
def job(config: TrainConfig) -> Job:
    info = as_json(describe(config))
    splits: dict[Split, Any] = {
        split: load_split(split, config, info, augmented=split == "train") for split in SPLITS
    }
    return Job(config, info, splits)


@pytest.fixture(scope="module")
def trial(job: Job) -> Trial:
    """The same trial as before each run; its errors say what to change."""
    train_set, validation_set = job.splits["train"], job.splits["validation"]
    return try_out(train_set, validation_set, collate, job.config, job.model(), compute_loss)


def test_the_description_of_the_data_is_the_same_again(config: TrainConfig, job: Job) -> None:
    assert as_json(describe(config)) == job.info, (
        "data.py: describe returned something else the second time"
    )


@pytest.mark.usefixtures("trial")
def test_a_micro_batch_goes_through_the_loss_and_the_scores(job: Job) -> None:
    for split in ("validation", "test"):
        arguments = (job.splits[split], collate, job.model(), score, summarize, BEST_RESULT)
        try_out_scores(*arguments)


@pytest.mark.parametrize("split", SPLITS)
def test_samples_can_be_read_alone_and_together(split: Split, job: Job) -> None:
    dataset = job.splits[split]
    assert len(dataset), f"data.py: load_split returned no samples for {split}"
    places = [0, len(dataset) // 2, len(dataset) - 1]
    for samples in (places, *([place] for place in places)):
        read_batch(dataset, collate, samples)


@pytest.mark.parametrize("split", SPLITS)
def test_samples_are_a_function_of_the_settings_and_the_seed(split: Split, job: Job) -> None:
    """Their augmentation too; otherwise a resumed run would read others."""
    first = job.splits[split]
    again = load_split(split, job.config, job.info, augmented=split == "train")
    assert len(first) == len(again), f"data.py: load_split returned another number for {split}"
    reader, other_reader = (MicroBatchReader(dataset, collate) for dataset in (first, again))
    micro_batch = MicroBatch([len(first) - 1, 0, len(first) // 2], seed=5)
    batch = reader[[micro_batch]]
    reader[[MicroBatch([0], seed=6)]]
    for other in (reader[[micro_batch]], other_reader[[micro_batch]]):
        map_leaves(assert_same_leaf, batch, other)


def assert_same_leaf(value: Any, other: Any) -> Any:
    reason = (
        "data.py: the same samples differ when they are read again with the same seed; draw "
        "random numbers from the global generators of torch, numpy or random only"
    )
    (rest, tensors), (other_rest, other_tensors) = taken_apart(value), taken_apart(other)
    torch.testing.assert_close(
        *(other_tensors, tensors),
        rtol=0,
        atol=0,
        equal_nan=True,
        msg=lambda found: f"{reason}\n{found}",
    )
    assert rest == other_rest, reason
    return value


@pytest.mark.parametrize("split", ["validation", "test"])
def test_a_sample_has_a_row_of_scores_also_alone(split: Split, job: Job) -> None:
    """The last batch of an evaluation may have one sample; rows of all batches are put together."""
    model = job.model().eval()
    with torch.no_grad():
        some, one = (score(model, job.batch(split, number)) for number in (8, 1))
    assert some.keys() == one.keys(), "model.py: score returned other names for another batch"
    for name, values in one.items():
        check_rows(name, values, 1)
        check_same_rows(name, values, some[name])


def test_the_weights_follow_from_the_seed(job: Job) -> None:
    weights, others = (job.model().state_dict() for _ in range(2))
    differing = [name for name, value in weights.items() if not torch.equal(value, others[name])]
    assert weights.keys() == others.keys() and not differing, (
        f"model.py: make_model gave {', '.join(differing[:3])} other values the second time; draw "
        "them from the global generators of torch, numpy or random"
    )


def test_the_optimizer_has_what_requires_a_gradient_once(job: Job) -> None:
    model = job.model()
    optimizer = make_optimizer(model, job.config)
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = sorted(
        names.get(id(parameter), "a parameter that is not the model's")
        for group in optimizer.param_groups
        for parameter in group["params"]
    )
    expected = sorted(name for name, p in model.named_parameters() if p.requires_grad)
    assert found == expected, (
        "optimizer.py: make_optimizer must take each parameter that requires a gradient, once; set "
        "requires_grad to False for what is not trained"
    )


def test_the_learning_rate_is_a_function_of_the_step(job: Job) -> None:
    """Nothing of it is saved: a resumed run sets it with a new optimizer."""
    model, total_steps = job.model(), job.total_steps()

    def set_in(optimizer: torch.optim.Optimizer, step: int) -> list[dict[str, Any]]:
        highest = set_learning_rate(optimizer, step, job.config, total_steps)
        assert isinstance(highest, float), "optimizer.py: set_learning_rate must return the highest"
        return [
            {name: value for name, value in group.items() if name != "params"}
            for group in optimizer.param_groups
        ]

    optimizer = make_optimizer(model, job.config)
    first = set_in(optimizer, 3)
    set_in(optimizer, 5)
    for again in (set_in(optimizer, 3), set_in(make_optimizer(model, job.config), 3)):
        assert again == first, (
            "optimizer.py: set_learning_rate set something else for the same step; compute it from "
            "step, config and total_steps, not from what was set before"
        )


def test_the_optimizer_lowers_the_loss_of_a_micro_batch(job: Job) -> None:
    """By a tenth, at the highest learning rate and with the same dropout in each step."""
    model, total_steps = job.model(), job.total_steps()
    optimizer = make_optimizer(model, job.config)

    def rate_of(step: int) -> float:
        return set_learning_rate(optimizer, step, job.config, total_steps)

    highest = max((1 + (total_steps - 1) * part // 100 for part in range(101)), key=rate_of)
    batch = job.batch()
    losses: list[float] = []
    for _ in range(STEPS_TO_LEARN):
        seed_torch(0)
        loss, items = compute_loss(model, batch)
        losses.append((loss / items).item())
        if losses[-1] < losses[0] - 0.1 * abs(losses[0]):
            return
        torch.autograd.backward(loss / items)
        clip_grad_norm_(model.parameters(), job.config.max_grad_norm or math.inf)
        rate_of(highest)
        optimizer.step()
        optimizer.zero_grad()
    raise AssertionError(
        f"{STEPS_TO_LEARN} steps on one micro-batch, each at the learning rate of step {highest}, "
        f"took its loss from {losses[0]:.4g} to {losses[-1]:.4g}; check compute_loss in model.py, "
        "and the learning rate in config.py"
    )


def test_the_items_of_the_loss_have_a_name() -> None:
    assert ITEMS.isidentifier() and ITEMS.islower(), (
        f"model.py: ITEMS is {ITEMS!r}; name what the loss is a mean over, such as samples, tokens "
        "or pixels"
    )


def test_the_units_that_fsdp2_shards_are_modules_of_the_model(job: Job) -> None:
    kinds = {type(module) for module in job.model().modules()}
    assert set(SHARD_UNITS) <= kinds, "model.py: SHARD_UNITS has a class that the model has not"
    config = yaml.safe_load(FSDP2.read_text(encoding="utf-8"))["fsdp_config"]
    named = config["fsdp_transformer_layer_cls_to_wrap"].split(",")
    units = [unit.__name__ for unit in SHARD_UNITS]
    assert not units or named == units, (
        f"launch/fsdp2.yaml: fsdp_transformer_layer_cls_to_wrap is {','.join(named)} and "
        f"SHARD_UNITS in model.py are {','.join(units)}; name the same"
    )


@pytest.mark.skipif(not example_inputs, reason="only export needs example_inputs")
def test_the_example_inputs_go_through_the_model(job: Job) -> None:
    inputs = example_inputs(job.config, job.info)
    assert isinstance(inputs, tuple) and all(isinstance(value, Tensor) for value in inputs), (
        "model.py: example_inputs must return a tuple of tensors"
    )
    assert [len(value) for value in inputs] == [2] * len(inputs), (
        "model.py: example_inputs must return a batch of 2"
    )
    with torch.no_grad():
        job.model().eval()(*inputs)


def train(run_dir: Path, job: Job, num_processes: int, *flags: object) -> str:
    """Train for a few steps of four micro-batches; return what was printed as warnings."""
    micro_batch_size = max(1, min(job.config.micro_batch_size, len(job.splits["train"]) // 4))
    settings = [
        *(*SETTINGS, *ON_A_CPU, "--tracker", "none", "--run-dir", run_dir),
        *("--micro-batch-size", micro_batch_size, "--global-batch-size", 4 * micro_batch_size),
        *("--max-steps", NUM_STEPS, "--checkpoint-every", STOPPED_AT, "--keep-checkpoints", 0),
        # Validation and test sets may be large: each once.
        *("--log-every", 1, "--eval-every", 0, *flags),
    ]
    done = launch("train", *settings, num_processes=num_processes, sources=SOURCES)
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.fixture(scope="module")
def one_process(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("starter") / "one"
    warnings = train(run_dir, job, 1)
    (run_dir / WARNINGS_FILE).write_text(warnings, encoding="utf-8")
    return run_dir


@pytest.fixture(scope="module")
def two_processes(job: Job, tmp_path_factory: pytest.TempPathFactory) -> Path:
    run_dir = tmp_path_factory.mktemp("starter") / "two"
    train(run_dir, job, 2)
    return run_dir


def assert_same_run(run_dir: Path, expected: Path) -> None:
    weights, others = (load_file(path / "model.safetensors") for path in (run_dir, expected))
    differing = [name for name, value in weights.items() if not torch.equal(value, others[name])]
    assert weights.keys() == others.keys() and not differing, (
        f"other bits in {', '.join(differing[:3])}; a forward pass must depend on its micro-batch "
        "and torch's global generators alone, not on rank, time or earlier passes"
    )
    assert read_metrics(run_dir) == read_metrics(expected)


def skip_if_state_changes(trial: Trial) -> None:
    if trial.changed_state:
        # The plan says so too.
        pytest.skip(f"a forward pass changes {trial.changed_state}: placements differ")


def test_two_processes_give_the_same_bits_as_one(
    one_process: Path, two_processes: Path, trial: Trial
) -> None:
    summaries = [read_summary(path) for path in (one_process, two_processes)]
    assert [summary["world_size"] for summary in summaries] == [1, 2]
    assert all(summary["exact"] for summary in summaries)
    skip_if_state_changes(trial)
    assert_same_run(two_processes, one_process)


def test_a_stopped_run_resumes_on_another_number_of_processes_to_the_same_bits(
    one_process: Path, two_processes: Path, job: Job, trial: Trial, tmp_path: Path
) -> None:
    stopped = shutil.copytree(two_processes, tmp_path / "stopped")
    assert saved_steps(stopped) == [NUM_STEPS, STOPPED_AT]
    shutil.rmtree(stopped / "checkpoints" / f"step_{NUM_STEPS:08d}")
    train(stopped, job, 1, "--resume", "must")
    summary = read_summary(stopped)
    assert (summary["world_size"], summary["resumed_from"]) == (1, STOPPED_AT)
    skip_if_state_changes(trial)
    assert_same_run(stopped, one_process)


def test_evaluate_repeats_the_test_results_on_two_processes(one_process: Path, job: Job) -> None:
    arguments = ["--run-dir", one_process, "--placement", "cpu"]
    done = launch("evaluate", *arguments, num_processes=2, sources=SOURCES)
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert ["Test", "samples", f"{len(job.splits['test'])}"] in map(str.split, lines)
    for name, value in read_summary(one_process).items():
        if name.startswith("test_") and name != "test_samples":
            assert value is None or shown(value) in done.stdout, name


def test_the_pictures_are_drawn_or_none(one_process: Path) -> None:
    warnings = (one_process / WARNINGS_FILE).read_text(encoding="utf-8")
    assert "draw_pictures failed" not in warnings, warnings
