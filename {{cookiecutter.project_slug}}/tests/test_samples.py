"""Splits have the same samples on all ranks, in a resumed run and in an evaluation; or one line."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from my_run import evaluate
from my_run.checkpoint.data_info import (
    SAMPLES,
    as_json,
    changed_names,
    changed_splits,
    check_same_data,
    load_data_info,
    save_data_info,
)
from my_run.checkpoint.progress import Progress
from my_run.run import agreement
from my_run.run.samples import norms_of, with_samples
from my_run.settings.errors import SettingError

from .launching import tiny_job
from .tiny.config import TrainConfig
from .tiny.data import describe, load, load_split
from .tiny.model import make_model

CONFIG = TrainConfig()


class Shuffled:
    """A data set in another order, as of an unsorted folder or a split without a seed."""

    def __init__(self, dataset: Any, seed: int) -> None:
        self.dataset = dataset
        self.order = np.random.default_rng(seed).permutation(len(dataset))

    def __len__(self) -> int:
        return len(self.order)

    def __getitem__(self, index: int) -> Any:
        return self.dataset[int(self.order[index])]


def data_of(seed: int | None) -> dict[str, Any]:
    validation = load("validation") if seed is None else Shuffled(load("validation"), seed)
    return with_samples({"classes": 10}, load("train"), validation, load("test"), None, CONFIG)


class OwnBatch:
    """A batch of a library's class, which moves itself."""

    def __init__(self, samples: list[Any]) -> None:
        self.data = {"inputs": torch.stack([inputs for inputs, _ in samples])}
        self.classes = np.array([int(target) for _, target in samples])

    def to(self, device: torch.device) -> "OwnBatch":
        return self


def test_samples_in_batches_of_any_class_are_compared() -> None:
    samples = [load("test")[index] for index in range(20)]
    norms = [norms_of("test", some, OwnBatch) for some in (samples, samples[1:] + samples[:1])]
    assert norms[0] != norms[1]
    expected = torch.cat([samples[0][0].double(), samples[0][1].double()[None]]).norm()
    assert norms[0][0] == pytest.approx(float(expected))


@dataclass
class Checked:
    inputs: Tensor

    def __post_init__(self) -> None:
        assert self.inputs.shape == (1, 3)


def test_a_batch_is_read_and_not_rebuilt() -> None:
    """The checks of its own class would see other values."""
    assert norms_of("test", [torch.ones(3)], lambda samples: Checked(torch.stack(samples))) == [
        pytest.approx(3**0.5)
    ]


def test_tensors_of_any_layout_are_compared() -> None:
    dense = torch.eye(3)
    layouts = [
        *(dense, dense.to_sparse(), dense.to(torch.complex64)),
        torch.nested.nested_tensor([dense[0], dense[1, 1:], dense[2]], layout=torch.jagged),
    ]
    for tensor in layouts:
        assert norms_of("test", [tensor], lambda samples: samples[0]) == [pytest.approx(3**0.5)]


def test_a_description_is_what_json_gives_back(tmp_path: Path) -> None:
    described = {
        "shape": (1, 28),
        "mean": np.float32(0.5),
        "deviations": np.ones(2),
        "weights": torch.ones(2),
        "nested": {"names": ("a", None, True)},
        "rate": math.nan,
    }
    info = as_json(described)
    assert info["nested"] == {"names": ["a", None, True]} and info["mean"] == 0.5
    assert info["shape"] == [1, 28] and info["deviations"] == info["weights"] == [1.0, 1.0]
    save_data_info(tmp_path, info)
    assert not changed_names(load_data_info(tmp_path), as_json(described))
    assert changed_names(info, {**info, "mean": 0.25}) == "mean"


@pytest.mark.parametrize(
    ("described", "reason"),
    [
        ([1], "returned a value, a list, which"),
        ({0: "cat"}, "returned a value, a dict with other keys than strings, which"),
        ({"names": {0: "cat"}}, "returned 'names', a dict with other keys than strings, which"),
        ({"a": [{"b": {1}}]}, r"returned 'a'\[0\]\['b'\], a set, which JSON cannot hold"),
    ],
)
def test_a_description_that_json_cannot_hold_is_refused(described: Any, reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        as_json(described)


def test_ranks_with_other_samples_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def check(mine: Mapping[str, Any], other: Mapping[str, Any]) -> None:
        def gather(value: tuple[str, Any, Any]) -> list[tuple[str, Any, Any]]:
            return [("node-a", value[1], value[2]), ("node-b", value[1], other)]

        monkeypatch.setattr(agreement, "is_distributed", lambda: True)
        monkeypatch.setattr(agreement, "gather_from_ranks", gather)
        agreement.check_agreement(TrainConfig(), mine, 100)

    check(data_of(None), data_of(None))
    message = (
        r"^data\.py: load_split gives other samples of validation on node-b \(rank 1\) than on "
        r"node-a \(rank 0\); seed what it draws with a constant, and sort the files that it lists$"
    )
    with pytest.raises(SettingError, match=message):
        check(data_of(1), data_of(2))


def test_a_resumed_run_with_other_samples_is_refused() -> None:
    start = Progress(step=5, num_train_samples=100, data_info=data_of(1))
    check_same_data(start, 100, data_of(1))
    message = r"^data\.py: load_split gives other samples of validation than up to step 5; seed"
    with pytest.raises(SettingError, match=message):
        check_same_data(start, 100, data_of(2))
    # Of an earlier version.
    check_same_data(replace(start, data_info={"classes": 10}), 100, data_of(2))
    check_same_data(replace(start, data_info=None), 100, data_of(2))


def test_a_decoder_that_rounds_otherwise_does_not_make_other_samples() -> None:
    before = data_of(None)
    now = {
        SAMPLES: {name: [1.0001 * v for v in values] for name, values in before[SAMPLES].items()}
    }
    assert changed_splits(before, now) == []
    now[SAMPLES]["train"][3] *= 1.01
    assert changed_splits(before, now) == ["train"]


def test_an_evaluation_of_other_samples_is_refused(
    single_run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def shuffled(*arguments: Any, **options: Any) -> Any:
        return Shuffled(load_split(*arguments, **options), seed=5)

    def note(*arguments: Any) -> None:
        raise SettingError("seen")

    assert set(load_data_info(single_run)[SAMPLES]) == {"train", "validation", "test"}
    monkeypatch.setattr(evaluate, "make_accelerator", note)
    settings = evaluate.EvaluateConfig(run_dir=single_run)
    with pytest.raises(SettingError, match="seen"), tiny_job(evaluate):
        evaluate.evaluate_run(settings)
    monkeypatch.setattr(evaluate, "load_split", shuffled)
    other = pytest.raises(SettingError, match="gives other samples of test than to the training")
    with other, tiny_job(evaluate):
        evaluate.evaluate_run(settings)


class OwnGenerator(Shuffled):
    def __getitem__(self, index: int) -> Any:
        inputs, target = self.dataset[index]
        return inputs + float(self.order[0]) + self.noise(), target

    generator = np.random.default_rng(0)

    def noise(self) -> Tensor:
        return torch.tensor(self.generator.normal(size=16), dtype=torch.float32)


class InPlace(Shuffled):
    def __getitem__(self, index: int) -> Any:
        return self.dataset.inputs[index].mul_(1.5), self.dataset.targets[index]


class Seeded(OwnGenerator):
    def noise(self) -> Tensor:
        return torch.rand(16) + float(np.random.rand())


@pytest.mark.parametrize("kind", [OwnGenerator, InPlace])
def test_samples_that_change_when_they_are_read_again_are_one_line(kind: type[Shuffled]) -> None:
    message = r"^data\.py: a sample of train had other values when it was read again; draw random"
    with pytest.raises(SettingError, match=message):
        norms_of("train", kind(load("train"), 0), None)
    norms_of("train", Seeded(load("train"), 0), None)


def test_only_training_samples_of_a_run_that_is_not_exact_may_vary() -> None:
    varying, rounded = OwnGenerator(load("train"), 0), replace(CONFIG, exact=False)
    found = with_samples({}, varying, load("validation"), load("test"), None, rounded)
    assert found[SAMPLES]["train"] == [] != found[SAMPLES]["test"]
    with pytest.raises(SettingError, match=r"sample of train had .* in place; or try --no-exact$"):
        with_samples({}, varying, load("validation"), load("test"), None, CONFIG)
    with pytest.raises(SettingError, match=r"sample of test had .* change no tensor in place$"):
        with_samples({}, load("train"), load("validation"), varying, None, rounded)


def test_a_test_split_that_cannot_be_read_is_found_before_training() -> None:
    with pytest.raises(SettingError, match="load_split returned no samples for test"):
        with_samples({}, load("train"), load("validation"), [], None, CONFIG)

    def collate(samples: list[Any]) -> Any:
        return samples[0]["label"]

    labelled = [{"label": torch.ones(1)}]
    with pytest.raises(SettingError, match=r"reading a batch .* failed: KeyError: 'label'"):
        with_samples({}, labelled, labelled, [{"image": torch.ones(1)}], collate, CONFIG)


@dataclass
class Boxes:
    boxes: Tensor
    names: list[str]


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (torch.tensor([True, False, True]), torch.tensor([True, True, True])),
        (torch.tensor([1.0, float("nan")]), torch.tensor([2.0, float("nan")])),
        (torch.tensor([1j]), torch.tensor([2 + 1j])),
        ({"path": "a/1.png", "size": 2}, {"path": "a/1.png", "size": 3}),
        ([float("inf"), 1.0], [float("inf"), 2.0]),
        ([[3, (4.5, None)]], [[3, (4.75, None)]]),
        (Boxes(torch.ones(2, 4), ["cat"]), Boxes(torch.ones(3, 4), ["cat", "dog"])),
        (torch.tensor([300], dtype=torch.int64), torch.tensor([301], dtype=torch.int64)),
    ],
)
def test_samples_of_any_structure_are_told_apart(one: Any, other: Any) -> None:
    def first(samples: list[Any]) -> Any:
        return samples[0]

    collate: Callable[[list[Any]], Any] = first
    mine, same, others = (
        {SAMPLES: {"train": norms_of("train", [sample], collate)}} for sample in (one, one, other)
    )
    assert changed_splits(mine, same) == []
    assert changed_splits(mine, others) == ["train"]


def test_paths_in_a_batch_may_differ() -> None:
    norms = [
        norms_of("train", [{"path": path, "pixels": torch.ones(3)}], None)
        for path in ("/disk/1.png", "/other/1.png")
    ]
    assert norms[0] == norms[1] == pytest.approx([3**0.5])


def test_the_model_is_not_told_of_the_norms(single_run: Path) -> None:
    told: list[dict[str, Any]] = []

    def make(config: TrainConfig, info: dict[str, Any]) -> Any:
        told.append(dict(info))
        return make_model(config, info)

    evaluate.EvaluateConfig(run_dir=single_run).load(TrainConfig, make)
    assert told == [describe(TrainConfig())]
