"""Calls of the user's functions: an error in one is one line that says where it was raised."""

import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..batches.loaders import Collate, MapDataset, MicroBatchReader
from ..batches.sampling import MicroBatch
from ..settings.errors import SettingError, nondeterministic_operation


@contextmanager
def errors_named(file: str, function: str) -> Iterator[None]:
    """Turn an error of the user's code into one line that says where it was raised.

    Raises:
        SettingError: instead of any other.
    """
    try:
        yield
    except SettingError:
        raise
    except Exception as error:
        package = Path(__file__).parents[1]
        frames = traceback.extract_tb(error.__traceback__)
        own = [f for f in frames if Path(f.filename).parent == package]
        where = f"{Path(own[-1].filename).name}, line {own[-1].lineno}" if own else file
        message = " ".join(str(error).split())[:300]
        reason = nondeterministic_operation(error) or (
            f"{function} failed: {type(error).__name__}: {message}"
        )
        raise SettingError(f"{where}: {reason}") from error


def call_users(name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function of `model.py` returns.

    Raises:
        SettingError: it fails.
    """
    with errors_named("model.py", name):
        return function(*arguments)


def read_batch(dataset: MapDataset, collate: Collate, samples: list[int], seed: int = 0) -> Any:
    """Return a batch of these samples, with the random numbers of a seed.

    Raises:
        SettingError: the data set or collate fails.
    """
    count = "one sample" if len(samples) == 1 else f"{len(samples)} samples"
    with errors_named("data.py", f"reading a batch of {count} (__getitem__ or collate)"):
        return MicroBatchReader(dataset, collate)[[MicroBatch(samples, seed)]]
