import json
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from sklearn.metrics import f1_score, r2_score, roc_auc_score
from torch import Tensor

from my_run import pictures, predict
from my_run.batches.evaluation import Evaluation
from my_run.checkpoint.data_info import save_data_info
from my_run.checkpoint.weights import save_weights
from my_run.config import TrainConfig
from my_run.data import (
    DataInfo,
    Split,
    describe,
    encode,
    load_split,
    read_table,
    split_rows,
)
from my_run.model import (
    compute_loss,
    example_inputs,
    make_model,
    score,
    summarize,
)
from my_run.settings.config_file import (
    as_yaml,
    load_config,
)
from my_run.settings.errors import SettingError

SPLITS: tuple[Split, ...] = ("train", "validation", "test")
NUM_ROWS = 120


def a_table() -> pd.DataFrame:
    """Numbers, text and booleans, with missing values; three classes and a price."""
    draw = np.random.default_rng(0)
    table = pd.DataFrame(
        {
            "size": draw.normal(50, 10, NUM_ROWS),
            "age": draw.integers(0, 90, NUM_ROWS),
            "city": draw.choice(["Rome", "Oslo", "Lima"], NUM_ROWS),
            "smoker": draw.random(NUM_ROWS) < 0.5,
        }
    )
    table = table.mask(draw.random(table.shape) < 0.1)
    return table.assign(kind=np.repeat(["c", "a", "b"], 40), price=draw.gamma(2, 9, NUM_ROWS))


def save(table: pd.DataFrame, file: Path) -> Path:
    if file.suffix == ".parquet":
        table.to_parquet(file)
    else:
        table.to_csv(file, index=False)
    return file


def config_of(file: Path, target: str = "kind", **settings: Any) -> TrainConfig:
    return TrainConfig(data_file=file, target=target, **settings)


def tensors(split: Split, config: TrainConfig, info: DataInfo) -> tuple[Tensor, ...]:
    return load_split(split, config, info).tensors


@pytest.fixture
def csv(tmp_path: Path) -> Path:
    return save(a_table().drop(columns="price"), tmp_path / "table.csv")


@pytest.mark.parametrize("labels", [["a"] * 500 + ["b"] * 69, ["a"] * 40 + ["b"] * 6 + ["c"]])
def test_the_splits_are_disjoint_and_each_class_is_shared_out(labels: list[str]) -> None:
    target = np.array(labels, dtype=object)
    splits = split_rows(target)

    assert sorted(np.concatenate(list(splits.values()))) == list(range(len(labels)))
    for name in set(labels):
        counts = {split: int((target[rows] == name).sum()) for split, rows in splits.items()}
        total = labels.count(name)
        assert counts["train"] == pytest.approx(0.64 * total, abs=2) and counts["train"] >= 1
        assert counts["test"] == pytest.approx(0.2 * total, abs=1)
        assert (counts["validation"] >= 1) == (counts["test"] >= 1) == (total >= 6)


def test_the_default_data_is_standardized_by_its_training_rows() -> None:
    config = TrainConfig()
    info = describe(config)
    numbers, classes = tensors("train", config, info)

    assert info["classes"] == ["benign", "malignant"]
    assert numbers.shape == (365, 30) and numbers.dtype == torch.float32
    assert classes.dtype == torch.int64 and classes.sum() == 136
    inside = numbers[:, (numbers.abs() < 10).all(dim=0)]
    torch.testing.assert_close(inside.mean(dim=0), torch.zeros(inside.shape[1]), atol=1e-5, rtol=0)
    torch.testing.assert_close(inside.std(dim=0, correction=0), torch.ones(inside.shape[1]))


@pytest.mark.parametrize("target", ["kind", "price"])
def test_nothing_is_fitted_on_validation_and_test(target: str, tmp_path: Path) -> None:
    table = a_table()
    values = table[target].to_numpy(dtype=object if target == "kind" else np.float64)
    others = np.setdiff1d(np.arange(NUM_ROWS), split_rows(values)["train"])
    poisoned = table.copy()
    poisoned.loc[others, ["size", "age"]] = 1e6
    poisoned.loc[others, "city"] = "Nowhere"
    if target == "price":
        poisoned.loc[others, "price"] = 1e6
    config = config_of(save(table, tmp_path / "table.csv"), target)
    info = describe(config)
    poisoned_config = config_of(save(poisoned, tmp_path / "poisoned.csv"), target)

    assert describe(poisoned_config) == info
    pairs = [tensors("train", one, info) for one in (config, poisoned_config)]
    assert all(map(torch.equal, *pairs))
    assert not torch.equal(*(tensors("test", one, info)[0] for one in (config, poisoned_config)))


def test_missing_and_unknown_values_have_places_of_their_own(tmp_path: Path, csv: Path) -> None:
    info = describe(config_of(csv))
    size = info["numbers"]["size"]
    row = {"size": size["mean"] + 2 * size["std"], "age": "?", "city": "Rome", "smoker": "True"}
    unknown = {"size": np.inf, "city": "Paris", "smoker": "maybe"}
    rows = [row, row | unknown, row | {"age": 1e30, "city": np.nan}]
    inputs = encode(read_table(save(pd.DataFrame(rows), tmp_path / "new.csv")), info, source=None)
    numbers, categories = inputs

    assert info["categories"] == {"city": ["Lima", "Oslo", "Rome"], "smoker": ["False", "True"]}
    # No age is missing in training, so that there is no input for it, whose weights would be noise.
    assert info["missing"] == ["size"]
    expected = [[2.0, 0.0, 0.0], [0.0, 0.0, 1.0], [2.0, 10.0, 0.0]]
    torch.testing.assert_close(numbers, torch.tensor(expected))
    assert categories.tolist() == [[3, 5], [0, 0], [0, 5]]


def test_rare_categories_train_what_is_made_of_unknown_ones(tmp_path: Path) -> None:
    table = a_table().assign(city=["Rome", "Oslo"] * 59 + ["Pune", "Bonn"])
    config = config_of(save(table, tmp_path / "table.csv"))
    info = describe(config)
    codes = torch.cat([tensors(split, config, info)[1][:, 0] for split in SPLITS])

    assert info["categories"]["city"] == ["Oslo", "Rome"] and (codes == 0).sum() == 2
    assert not make_model(config, info).get_parameter("embedding.weight")[0].any()


@pytest.mark.parametrize("target", ["kind", "price", "smoker"])
def test_a_csv_file_equals_a_parquet_file(target: str, tmp_path: Path) -> None:
    table = a_table().dropna(subset=["smoker"])
    configs = [config_of(save(table, tmp_path / name), target) for name in ("a.csv", "a.parquet")]
    infos = [describe(config) for config in configs]

    assert infos[0]["classes"] == infos[1]["classes"]
    assert infos[0]["categories"] == infos[1]["categories"]
    for split in SPLITS:
        pairs = [tensors(split, *pair) for pair in zip(configs, infos, strict=True)]
        torch.testing.assert_close(*pairs)


@pytest.mark.parametrize(
    ("values", "task", "expected"),
    [
        (["no", "yes"], "auto", ["no", "yes"]),
        ([10, 9], "auto", ["9", "10"]),
        ([True, False], "auto", ["False", "True"]),
        ([0.5, 1.5], "auto", None),
        ([0.5, 1.5], "classification", ["0.5", "1.5"]),
        ([9, 10], "regression", None),
        (list(range(30)), "auto", None),
    ],
)
def test_the_task_follows_from_the_target(
    values: list[Any], task: str, expected: list[str] | None, tmp_path: Path
) -> None:
    table = pd.DataFrame({"x": range(60), "y": values * (60 // len(values))})
    info = describe(config_of(save(table, tmp_path / "table.csv"), "y", task=task))

    assert info["classes"] == expected
    assert (info["target"] is None) == (expected is not None)


def test_columns_without_information_are_left_out(tmp_path: Path, csv: Path) -> None:
    table = pd.read_csv(csv).assign(one=1, empty=np.nan, same="a", name=range(NUM_ROWS))
    table["name"] = "n" + table["name"].astype(str)
    table.to_csv(tmp_path / "more.csv")  # With the index, whose column has no name.
    config = config_of(tmp_path / "more.csv", ignore_columns=("name",))

    assert describe(config) == describe(config_of(csv))


def with_column(**columns: Any) -> str:
    text: str = a_table().assign(**columns).to_csv(index=False)
    return text


@pytest.mark.parametrize(
    ("content", "settings", "reason"),
    [
        (None, {}, r"table\.csv is no \.csv \(commas, UTF-8\) or \.parquet: .*No such file"),
        ("", {}, r"is no .csv .*: No columns"),
        (b"\x89PNG\xff", {}, r"is no .csv .*: 'utf-8' codec"),
        ("a,kind\n1,2\n1,2,3\n", {}, r"is no .csv .*: .*Expected 2 fields in line 3, saw 3"),
        ("a,kind\n", {}, r"table\.csv has no rows"),
        ("a,a,kind\n1,2,3\n", {}, r"has two columns 'a'; rename one"),
        ("a;kind\n1;2\n", {}, r"has no column 'kind'; it has 'a;kind'"),
        (with_column(), {"target": "sort"}, r"has no column 'sort'; it has 'size', 'age', "),
        (with_column(), {"ignore_columns": ("id",)}, r"has no column 'id'; it has"),
        (with_column(), {"target": "smoker"}, r"target 'smoker' is missing, .* in \d+ of 120 rows"),
        (with_column(kind="a"), {}, r"target 'kind' is 'a' in every row; name another"),
        ("a,kind\n" + 20 * "1,1\n2,1.0\n", {}, r"target 'kind' is '1' in every row"),
        (with_column(), {"task": "regression"}, r"has text, such as 'c'; try --task class"),
        (
            with_column(),
            {"target": "price", "task": "classification"},
            r"'price' has 120 values in 120 rows; add rows, or try --task regression",
        ),
        (
            with_column(id=[f"id {i}" for i in range(NUM_ROWS)]),
            {},
            r"column 'id' has many different texts, such as 'id \d+'; try --ignore-col",
        ),
        (
            with_column(id=[str(i) for i in range(NUM_ROWS - 1)] + ["unknown"]),
            {},
            r"column 'id' has numbers and different texts, such as 'unknown'; empty those",
        ),
        ("a,kind\n" + 20 * "1,x\n1,y\n", {}, r"has no column to predict from"),
        (with_column(), {"ignore_columns": ("kind",)}, r"target \(kind\) is among ignore_columns"),
    ],
)
def test_a_table_that_cannot_be_used_is_one_line(
    content: str | bytes | None, settings: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    file = tmp_path / "table.csv"
    if content is not None:
        file.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(SettingError, match=reason) as caught:
        describe(config_of(file, **{"target": "kind", **settings}))
    assert "\n" not in str(caught.value)


def test_columns_may_have_any_name_and_an_index_of_parquet_is_one(tmp_path: Path) -> None:
    file = tmp_path / "table.csv"
    file.write_text("NA,None,nan,,kind\n1,2,NA,4,a\n5,6,7,8,b\n")
    table = read_table(file)
    assert list(table.columns) == ["NA", "None", "nan", "kind"]
    assert table["nan"].isna().tolist() == [True, False]
    indexed = pd.DataFrame({"id": [1, 2], "size": [3.0, 4.0]}).set_index("id")
    indexed.to_parquet(tmp_path / "table.parquet")
    assert list(read_table(tmp_path / "table.parquet").columns) == ["id", "size"]


def test_a_category_of_which_no_value_is_known_is_named(
    tmp_path: Path, csv: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    info = describe(config_of(csv))
    table = read_table(csv)
    encode(table, info, source=csv)
    assert not capsys.readouterr().err
    [name] = list(info["categories"])[:1]
    table[name] = table[name].str.upper() + "?"
    encode(table, info, source=csv)
    warned = capsys.readouterr().err
    assert re.match(rf"warning: .*: no '{name}' is known, as '.*\?'", warned)


def test_a_file_that_has_changed_since_the_training_is_refused(tmp_path: Path, csv: Path) -> None:
    info = describe(config_of(csv))
    texts = pd.read_csv(csv).astype({"size": object})
    texts.loc[7, "size"] = "12 kg"
    with pytest.raises(SettingError, match=r"row 8: 'size' must be a number, not '12 kg'"):
        encode(read_table(save(texts, tmp_path / "texts.csv")), info, source=tmp_path)


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"data_file": Path("table.csv")}, "try --target NAME"),
        ({"target": "kind"}, "try --data-file FILE.csv"),
        ({"ignore_columns": ("id",)}, "try --data-file FILE.csv"),
    ],
)
def test_settings_of_a_table_come_together(settings: dict[str, Any], reason: str) -> None:
    with pytest.raises(SettingError, match=reason):
        TrainConfig(**settings)


def test_the_settings_read_back_from_a_file(tmp_path: Path) -> None:
    changed: dict[str, Any] = {"ignore_columns": ("id", "first name"), "task": "regression"}
    for settings in ({}, changed):
        config = config_of(tmp_path / "table.csv", **settings)
        (tmp_path / "config.yaml").write_text(as_yaml(config))
        assert load_config(TrainConfig, tmp_path / "config.yaml") == config


@pytest.mark.parametrize("target", ["kind", "price"])
def test_every_parameter_gets_a_gradient_and_a_sample_does_not_depend_on_the_others(
    target: str, tmp_path: Path
) -> None:
    config = config_of(save(a_table(), tmp_path / "table.csv"), target)
    info = describe(config)
    model = make_model(config, info).eval()
    batch = load_split("train", config, info)[:9]
    loss, items = compute_loss(model, batch)
    alone = [compute_loss(model, tuple(part[i : i + 1] for part in batch))[0] for i in range(9)]

    assert items == 9
    torch.testing.assert_close(sum(alone), loss)
    assert model(*example_inputs(config, info)).shape == (2, 3 if target == "kind" else 1)
    assert all(gradient.any() for gradient in torch.autograd.grad(loss, list(model.parameters())))


def test_scores_of_classes_agree_with_hand_computed_ones() -> None:
    # The inputs are the logits.
    logits = torch.tensor([[2.0, 0.0], [0.0, 0.0], [0.0, 3.0], [1.0, 0.0]])
    target = torch.tensor([0, 1, 1, 1])
    scores = score(torch.nn.Identity(), (logits, target))
    results = summarize(scores)
    second = (-torch.tensor([2.0, 0.0, -3.0, 1.0])).sigmoid()
    losses = -torch.where(target.bool(), second, 1 - second).log()

    torch.testing.assert_close(scores["loss"], losses)
    torch.testing.assert_close(scores["probabilities"][:, 1], second)
    assert results["loss"] == pytest.approx(losses.mean().item())
    # Of the three samples of the second class one is found; all three rank above the other.
    assert results["accuracy"] == 0.5 and results["auc"] == 1.0
    assert results["f1"] == pytest.approx(2 * 1 / (2 * 1 + 0 + 2))


@pytest.mark.parametrize("num_classes", [2, 4])
def test_results_of_classes_agree_with_scikit_learn(num_classes: int) -> None:
    torch.manual_seed(0)
    target = torch.randint(num_classes, (200,))
    logits = torch.randn(200, num_classes) + 2 * torch.eye(num_classes)[target]
    results = summarize(score(torch.nn.Identity(), (logits, target)))
    probabilities, predicted = logits.softmax(dim=1), logits.argmax(dim=1)

    if num_classes == 2:
        assert results["auc"] == pytest.approx(roc_auc_score(target, probabilities[:, 1]))
        assert results["f1"] == pytest.approx(f1_score(target, predicted))
    else:
        one_vs_rest = roc_auc_score(target, probabilities, multi_class="ovr")
        assert results["auc"] == pytest.approx(one_vs_rest)
        assert results["f1"] == pytest.approx(f1_score(target, predicted, average="macro"))


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("num_classes", [2, 4])
def test_a_split_may_lack_classes_and_a_run_may_diverge(num_classes: int) -> None:
    logits = torch.eye(num_classes)[[0, 1, 1]]
    for target, auc in (([0, 1, 1], 1.0), ([0, 0, 0], np.nan), ([1, 1, 1], np.nan)):
        results = summarize(score(torch.nn.Identity(), (logits, torch.tensor(target))))
        assert results["auc"] == pytest.approx(auc, nan_ok=True)
    diverged = summarize(score(torch.nn.Identity(), (logits * np.nan, torch.tensor([0, 1, 1]))))
    assert np.isnan(diverged["auc"]) and np.isnan(diverged["loss"])


def test_results_of_numbers_are_in_units_of_the_target(tmp_path: Path) -> None:
    config = config_of(save(a_table(), tmp_path / "table.csv"), "price")
    info = describe(config)
    target = tensors("test", config, info)[-1]
    outputs = target[:, :1] + torch.randn(len(target), 1) / 3
    scores = score(torch.nn.Identity(), (outputs, target))
    results = summarize(scores)
    mean, std = info["target"]["mean"], info["target"]["std"]
    true, predicted = target[:, 0] * std + mean, outputs[:, 0] * std + mean

    prices = a_table()["price"].to_numpy()
    assert true.numpy() == pytest.approx(prices[split_rows(prices)["test"]], rel=1e-5)
    assert results["mae"] == pytest.approx((true - predicted).abs().mean().item(), rel=1e-5)
    assert results["r2"] == pytest.approx(r2_score(true, predicted), rel=1e-5)
    assert results["loss"] == pytest.approx(((true - predicted) / std).pow(2).mean().item())
    same = {**scores, "target": torch.ones(len(target))}
    assert np.isnan(summarize(same)["r2"])


@pytest.fixture(params=["kind", "price"])
def trained(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, TrainConfig]:
    """A run folder of a model with its initial weights."""
    config = config_of(save(a_table(), tmp_path / "table.csv"), request.param)
    info = describe(config)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text(as_yaml(config))
    save_data_info(tmp_path / "run", info)
    save_weights(tmp_path / "run", make_model(config, info).state_dict())
    return tmp_path / "run", config


def printed_for(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["predict", *map(str, arguments)])
        predict.main()
    return capsys.readouterr().out.splitlines()


def test_predictions_are_lines_or_json(
    trained: tuple[Path, TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir, config = trained
    info = describe(config)
    table = a_table().drop(columns=str(config.target)).assign(other="x")
    # The order of the columns does not matter, nor do others.
    one = save(table.iloc[:2, ::-1], tmp_path / "one.parquet")
    two = save(table.iloc[2:3], tmp_path / "two.csv")
    lines = printed_for(capsys, "--run-dir", run_dir, one, two)
    rows = [
        json.loads(line) for line in printed_for(capsys, "--run-dir", run_dir, "--json", one, two)
    ]
    places = [(row["file"], row["row"]) for row in rows]

    assert places == [(str(one), 1), (str(one), 2), (str(two), 1)]
    settings = predict.PredictConfig(run_dir=run_dir, files=())
    _, _, model = settings.load(TrainConfig, make_model)
    outputs = model(*encode(table.iloc[:3], info, source=None))
    for (file, number), line, row, output in zip(places, lines, rows, outputs, strict=True):
        if config.target == "kind":
            expected = dict(zip("abc", output.softmax(dim=0).tolist(), strict=True))
            assert row["probabilities"] == pytest.approx(expected)
            assert row["prediction"] == max(expected, key=lambda name: expected[name])
            answer = f"{row['prediction']} ({max(expected.values()):.1%})"
        else:
            value = output.item() * info["target"]["std"] + info["target"]["mean"]
            assert row["prediction"] == pytest.approx(value) and "probabilities" not in row
            answer = f"{value:.6g}"
        assert line == f"{file} row {number}: {answer}"


def test_a_table_that_lacks_a_column_is_refused(
    trained: tuple[Path, TrainConfig], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = save(a_table().drop(columns="city"), tmp_path / "new.csv")
    for files, reason in (([file], "new.csv has no column 'city'; it has"), ([], "no table")):
        with pytest.raises(SystemExit):
            printed_for(capsys, "--run-dir", trained[0], *files)
        [line] = capsys.readouterr().err.splitlines()
        assert line.startswith("error: ") and reason in line


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[Figure]:
    """The figures that are saved."""
    saved: list[Figure] = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, file: saved.append(figure))
    return saved


@pytest.mark.parametrize("num_classes", [2, 3])
def test_the_picture_of_classes_shows_curves_and_counts(
    num_classes: int, drawn: list[Figure]
) -> None:
    names = ["a", "a name that is too long for an axis", r"$\frac$"][:num_classes]
    target = torch.tensor([0, 0, 1, 1, 1])
    probabilities = torch.eye(num_classes)[[0, 1, 1, 1, 0]]
    test = Evaluation(5, {}, {"target": target, "probabilities": probabilities})
    pictures.draw_pictures(Path("."), None, test, {"classes": names, "target": None})
    curves, confusion = drawn[0].axes
    counts = confusion.images[0].get_array()

    assert counts is not None and counts[:2, :2].tolist() == [[1, 1], [1, 2]]
    drawn[0].draw_without_rendering()  # Fails on a formula that is none.
    assert [label.get_text() for label in confusion.get_xticklabels()][:2] == [
        "a",
        "a name that is too …",
    ]
    # One of two classes is enough, and no sample belongs to the third.
    assert len(curves.lines) == (1 if num_classes == 2 else 2)
    places = np.asarray(curves.lines[-1].get_xydata()).tolist()
    assert [0.5, pytest.approx(2 / 3)] in places


def test_the_picture_of_numbers_is_in_their_units(drawn: list[Figure]) -> None:
    scores = {"target": torch.tensor([0.0, 1.0]), "prediction": torch.tensor([0.5, 1.0])}
    info = {"classes": None, "target": {"mean": 100.0, "std": 10.0}}
    pictures.draw_pictures(Path("."), None, Evaluation(2, {}, scores), info)
    points = [np.asarray(axes.collections[0].get_offsets()).tolist() for axes in drawn[0].axes]

    assert points == [[[105, 100], [110, 110]], [[105, -5], [110, 0]]]
