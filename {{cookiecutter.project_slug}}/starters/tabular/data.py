"""The data set: replace this file, together with `model.py`, by your own.

Here: 569 breast tumours of scikit-learn (30 measurements; benign or malignant), real data without a
download; or with `--data-file` a table of numbers and categories. What the programs need:

- `prepare(config)`: downloads and such; called on each machine before anything reads.
- `describe(config)`: what the model must know of the data, as JSON; it is saved with the run.
- `load_split(split, config, info, augmented=...)`: a map-style data set.
- `collate`: turns a list of samples into a batch; None is PyTorch's default.
"""

import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import TensorDataset

from .config import TrainConfig
from .settings.errors import SettingError

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]
Array = NDArray[Any]

MISSING = ("", "?", "NA", "N/A", "n/a", "nan", "NaN", "null", "NULL", "None", "<NA>", "#N/A")
SPLIT_SEED = 0  # Not --seed: the splits belong to the data set, not to the run.
MIN_ROWS_PER_CLASS = 6  # Fewer do not reach every split.
MAX_INTEGER_CLASSES = 20
MAX_DEVIATIONS = 10.0  # Inputs are clipped to it: an outlier must not outweigh other columns.

collate = None


def prepare(config: TrainConfig) -> None:
    """Do nothing: the table is a file, or comes with scikit-learn."""


def describe(config: TrainConfig) -> DataInfo:
    """Return what is fitted on the training rows; columns with one value there are left out."""
    table, target = read_data(config)
    rows = split_rows(target)["train"]
    numbers, missing, categories, classes = {}, [], {}, None
    for name, column in table.iloc[rows].items():
        values, is_text = as_numbers(column)
        if is_text.any() and column.nunique(dropna=False) > 1:
            counts = column.astype("string").value_counts()
            if len(counts) > max(20, counts.sum() / 2):
                example = f"different texts, such as {column[is_text].iloc[0]!r}"
                if is_text.mean() < 0.5:
                    raise SettingError(f"column {name!r} has numbers and {example}; empty those")
                raise SettingError(f"column {name!r} has many {example}; try --ignore-columns")
            # The others teach the model what to make of unknown ones.
            categories[name] = sorted(counts.index[counts > 1])
        elif len(np.unique(values)) > 1:
            numbers[name] = mean_and_std(values)
            missing += [name] * bool(np.isnan(values).any())
    if not numbers and not categories:
        raise SettingError("the table has no column to predict from; give it one that varies")
    if target.dtype == object:
        has_text = bool(as_numbers(pd.Series(target))[1].any())
        classes = sorted(set(target[rows]), key=None if has_text else float)
    info = {"numbers": numbers, "missing": missing, "categories": categories, "classes": classes}
    return {**info, "target": None if classes else mean_and_std(target[rows])}


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> TensorDataset:
    """Return 64 % of the rows to train, 16 % to validate or 20 % to test.

    A sample is what `encode` returns, and a class, () int64; or (2,) float32, the standardized
    number and its unit, the standard deviation.
    """
    table, target = read_data(config)
    rows = split_rows(target)[split]
    inputs = encode(table.iloc[rows], info, source=config.data_file)
    if info["target"]:
        mean, std = info["target"]["mean"], info["target"]["std"]
        pairs = np.stack([(target[rows] - mean) / std, np.full(len(rows), std)], axis=1)
        return TensorDataset(*inputs, torch.tensor(pairs, dtype=torch.float32))
    classes = pd.Index(info["classes"]).get_indexer(target[rows])
    return TensorDataset(*inputs, torch.tensor(classes, dtype=torch.int64))


def read_data(config: TrainConfig) -> tuple[pd.DataFrame, Array]:
    """Return the columns to predict from, and the target: text for classes, otherwise float64."""
    if config.data_file is None:
        from sklearn.datasets import load_breast_cancer  # Takes a second, and own files need none.

        data = load_breast_cancer(as_frame=True)
        table, name = data.data.assign(diagnosis=data.target_names[data.target]), "diagnosis"
    else:
        table, name = read_table(config.data_file), str(config.target)
    unused = [name, *config.ignore_columns]
    check_columns(unused, table, config.data_file)
    return table.drop(columns=unused), read_target(table[name], config.task)


def read_table(file: Path) -> pd.DataFrame:
    """Return a table of numbers and text, without columns that have no name."""
    try:
        if file.suffix.lower() == ".parquet":
            table = (read := pd.read_parquet(file)).reset_index(drop=read.index.name is None)
        else:
            # As text, so that a category reads the same in every file.
            rows = pd.read_csv(file, header=None, dtype=str, na_filter=False, skipinitialspace=True)
            table = rows.iloc[1:].mask(rows.isin(MISSING)).reset_index(drop=True)
            table.columns = pd.Index(rows.iloc[0])
    except (OSError, ValueError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"{file} is no .csv (commas, UTF-8) or .parquet: {reason}") from error
    table = table.rename(columns=str).loc[:, table.columns != ""]
    for name in table.columns[table.columns.duplicated()]:
        raise SettingError(f"{file} has two columns {name!r}; rename one")
    if table.empty:
        raise SettingError(f"{file} has no rows; give a file with a line of names, then values")
    others = [name for name, column in table.items() if column.dtype.kind not in "iuf"]
    return table.astype(dict.fromkeys(others, "string"))


def check_columns(names: list[str], table: pd.DataFrame, source: Path | None) -> None:
    """Raise a SettingError if the table lacks a column."""
    for name in names:
        if name not in table:
            known = ", ".join(map(repr, table.columns[:8])) + ", ..." * (len(table.columns) > 8)
            raise SettingError(f"{source} has no column {name!r}; it has {known}")


def as_numbers(column: pd.Series) -> tuple[Array, Array]:
    """Return float64 numbers, NaN where missing or infinite, and where there is text instead."""
    numbers = pd.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    is_text = np.isnan(numbers) & column.notna().to_numpy()
    return np.where(np.abs(numbers) <= np.finfo(np.float32).max, numbers, np.nan), is_text


def mean_and_std(values: Array) -> dict[str, float]:
    """Return mean and standard deviation of the values that are not missing."""
    return {"mean": float(np.nanmean(values)), "std": float(np.nanstd(values)) or 1.0}


def read_target(column: pd.Series, task: str) -> Array:
    """Return the names of classes, as text, or float64 numbers; for auto, what they look like."""
    values, is_text = as_numbers(column)
    has_text, absent = bool(is_text.any()), int((np.isnan(values) & ~is_text).sum())
    num_rows, num_values = len(column), column.nunique() if has_text else len(np.unique(values))
    is_discrete = bool((values == np.round(values)).all()) and num_values <= MAX_INTEGER_CLASSES
    has_classes = task == "classification" or (task == "auto" and (has_text or is_discrete))
    problem = ""
    if absent:
        problem = f"is missing, infinite or above 3e38 in {absent} of {num_rows} rows; remove those"
    elif num_values < 2:
        problem = f"is {column.iloc[0]!r} in every row; name another --target"
    elif task == "regression" and has_text:
        problem = f"has text, such as {column[is_text].iloc[0]!r}; try --task classification"
    elif num_rows < MIN_ROWS_PER_CLASS * (num_values if has_classes else 1):
        advice = ", or try --task regression" * (has_classes and not has_text)
        problem = f"has {num_values} values in {num_rows} rows; add rows{advice}"
    if problem:
        raise SettingError(f"target {column.name!r} {problem}")
    if not has_classes:
        return values
    if not has_text:
        column = column.map(lambda value: np.format_float_positional(float(value), trim="-"))
    return np.array(column, dtype=object)


def split_rows(target: Array) -> dict[Split, Array]:
    """Return the rows of each split, drawn at random, from each class alike."""
    rows = np.random.default_rng(SPLIT_SEED).permutation(len(target))
    classes = target[rows] if target.dtype == object else np.zeros(len(target))
    # Of 25 rows of a class, 5 are for the test and 4 others for the validation.
    place = pd.Series(classes).groupby(classes).cumcount().to_numpy() % 25
    is_test, is_val = place % 5 == 4, place % 6 == 5
    return {"train": rows[~is_test & ~is_val], "validation": rows[is_val], "test": rows[is_test]}


def encode(table: pd.DataFrame, info: DataInfo, *, source: Path | None) -> tuple[Tensor, ...]:
    """Return the model's inputs: numbers (rows, n) float32 and, if any, categories (rows, m) int64.

    A missing number is 0, the mean, and a further input says so; an unknown category is 0.
    """
    check_columns([*info["numbers"], *info["categories"]], table, source)
    numbers, categories, first = [np.zeros((len(table), 0))], [], 1
    for name, fitted in info["numbers"].items():
        values, is_text = as_numbers(table[name])
        if is_text.any():
            row, text = table.index[is_text][0] + 1, table[name][is_text].iloc[0]
            raise SettingError(f"{source} row {row}: {name!r} must be a number, not {text!r}")
        scaled = (values - fitted["mean"]) / fitted["std"]
        numbers.append(np.nan_to_num(scaled.clip(-MAX_DEVIATIONS, MAX_DEVIATIONS)))
    numbers += [np.isnan(as_numbers(table[name])[0]) for name in info["missing"]]
    for name, known in info["categories"].items():
        texts = table[name].astype("string")
        index = pd.Index(known).get_indexer(texts)
        if known and (index < 0).all() and texts.notna().any():
            print(f"warning: {source}: no {name!r} is known, as {texts.max()!r}", file=sys.stderr)
        categories.append(np.where(index < 0, 0, index + first))
        first += len(known)
    inputs = torch.tensor(np.column_stack(numbers), dtype=torch.float32)
    return (inputs, torch.tensor(np.column_stack(categories))) if categories else (inputs,)
