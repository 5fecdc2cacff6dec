"""What the model knows of the data, `data.json` in the run folder: `describe` of `data.py`."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from ..settings.errors import SettingError
from .atomic import write_atomically
from .progress import Progress

DATA_FILE = "data.json"
SAMPLES = "norms of samples"
"""By split, beside what `describe` returned: by them, other samples are recognized."""

SAME_SAMPLES = "seed what it draws with a constant, and sort the files that it lists"
# Another version of a decoder rounds pixels otherwise; other samples differ by percents.
RELATIVE_TOLERANCE = 1e-3


def as_json(info: Any) -> dict[str, Any]:
    """Return what `describe` returned as `data.json` gives it back: tuples and arrays as lists.

    So a model is made from the same values in training and afterwards.

    Raises:
        SettingError: it is no dictionary, or JSON cannot hold it.
    """
    if not isinstance(info, Mapping) or not all(isinstance(name, str) for name in info):
        raise _not_json("a value", info)
    return {name: _plain(f"{name!r}", value) for name, value in info.items()}


def _plain(name: str, value: Any) -> Any:
    if isinstance(value, Mapping) and all(isinstance(key, str) for key in value):
        return {key: _plain(f"{name}[{key!r}]", inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(f"{name}[{index}]", inner) for index, inner in enumerate(value)]
    if isinstance(value, np.generic | np.ndarray | Tensor):
        return value.tolist()
    if value is None or isinstance(value, str | int | float):
        return value
    raise _not_json(name, value)


def _not_json(name: str, value: Any) -> SettingError:
    kind = type(value).__name__ + " with other keys than strings" * isinstance(value, Mapping)
    return SettingError(
        f"data.py: describe returned {name}, a {kind}, which JSON cannot hold; return a dictionary "
        "with strings as keys, and strings, numbers, lists or such dictionaries as values"
    )


def changed_names(earlier: dict[str, Any], info: dict[str, Any]) -> str:
    """Return what `describe` returns otherwise than earlier, by name; empty if nothing."""
    # As text: NaN is not equal to itself.
    before, now = ({name: json.dumps(v) for name, v in some.items()} for some in (earlier, info))
    names = [name for name in {**before, **now} if before.get(name) != now.get(name)]
    return ", ".join(name for name in names if name != SAMPLES)


def changed_splits(earlier: Mapping[str, Any], info: Mapping[str, Any]) -> list[str]:
    """Return the splits that have other samples than earlier; none where that is not known."""
    before, now = earlier.get(SAMPLES, {}), info.get(SAMPLES, {})
    return [
        split
        for split in sorted(before.keys() & now.keys())
        if len(before[split]) != len(now[split])
        or not all(
            math.isclose(one, other, rel_tol=RELATIVE_TOLERANCE)
            for one, other in zip(before[split], now[split], strict=True)
        )
    ]


def check_same_data(start: Progress, num_train_samples: int, info: dict[str, Any]) -> None:
    """Check that a checkpoint was made with this data.

    Raises:
        SettingError: the training set had another size, or `describe` returned something else.
    """
    if not start.step:
        return
    if start.num_train_samples != num_train_samples:
        raise SettingError(
            f"the training set has {num_train_samples} samples and had {start.num_train_samples} "
            f"up to step {start.step}; restore it, or try --allow-changes"
        )
    earlier = start.data_info
    if earlier is None:
        return
    if changed := changed_names(earlier, info):
        raise SettingError(
            f"the data has changed since step {start.step}: describe in data.py returns other "
            f"{changed}; restore it, or try --allow-changes"
        )
    if splits := changed_splits(earlier, info):
        raise SettingError(
            f"data.py: load_split gives other samples of {', '.join(splits)} than up to "
            f"step {start.step}; {SAME_SAMPLES}, or try --allow-changes"
        )


def save_data_info(run_dir: Path, info: dict[str, Any]) -> None:
    """Write what `describe` returned.

    Raises:
        OSError: the disk is full, or the file cannot be written.
    """
    write_atomically(run_dir / DATA_FILE, json.dumps(info, indent=2) + "\n")


def load_data_info(run_dir: Path) -> dict[str, Any]:
    """Return what `describe` returned when the run was started, and `SAMPLES`.

    Raises:
        SettingError: the folder holds no run that was trained.
    """
    try:
        info: dict[str, Any] = json.loads((run_dir / DATA_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise SettingError(f"run_dir {run_dir} has no valid {DATA_FILE}: {error}") from error
    return info
