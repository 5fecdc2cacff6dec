"""Which samples a split has: tried before training, the same on all ranks and in a resumed run."""

import math
from collections.abc import Mapping
from typing import Any

import torch

from ..batches.loaders import Collate, MapDataset
from ..batches.structure import taken_apart
from ..checkpoint.data_info import SAME_SAMPLES, SAMPLES, changed_splits
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from ..settings.values import leaves_of
from .contract import check_set
from .users_code import read_batch

NUM_READ = 8


def with_samples(
    info: Mapping[str, Any],
    train: MapDataset,
    validation: MapDataset,
    test: MapDataset,
    collate: Collate,
    config: RunConfig,
) -> dict[str, Any]:
    """Return what `describe` returned, and a norm for each of a few samples of each split.

    By these, another rank, a resumed run and an evaluation see that `load_split` gave them other
    samples. A run that is not exact may augment its training samples from generators of its own.

    Raises:
        SettingError: a split is empty, cannot be read, or has other samples when it is read again.
    """
    splits = {"train": train, "validation": validation, "test": test}
    norms = {
        split: norms_of(split, dataset, collate, may_vary=split == "train" and not config.exact)
        for split, dataset in splits.items()
    }
    return {**info, SAMPLES: norms}


def check_samples(
    trained: Mapping[str, Any], split: str, dataset: MapDataset, collate: Collate
) -> dict[str, Any]:
    """Check that a split has the samples of the training run; return their norms.

    Args:
        trained: What `with_samples` returned then.
        split: Its name. In training, the samples of "train" were augmented: they have no norms.
        dataset: The split as it is now.
        collate: As for `with_samples`.

    Raises:
        SettingError: it has others.
    """
    if split == "train":
        return {}
    found = {SAMPLES: {split: norms_of(split, dataset, collate)}}
    if changed_splits(trained, found):
        raise SettingError(
            f"data.py: load_split gives other samples of {split} than to the training run; "
            f"{SAME_SAMPLES}"
        )
    return found


def norms_of(
    split: str, dataset: MapDataset, collate: Collate, *, may_vary: bool = False
) -> list[float]:
    """Return the norm of all numbers of a sample, for a few samples from the first to the last.

    They are none if the samples vary, and may.

    Raises:
        SettingError: as `with_samples`.
    """
    check_set(split, dataset)
    last = len(dataset) - 1
    indices = sorted({last * part // (NUM_READ - 1) for part in range(NUM_READ)})
    first, again = ([_numbers(dataset, collate, index) for index in indices] for _ in range(2))
    if not all(torch.equal(one, other) for one, other in zip(first, again, strict=True)):
        if may_vary:
            return []
        raise SettingError(
            f"data.py: a sample of {split} had other values when it was read again; draw random "
            "numbers from the global generators of torch, numpy or random, which are seeded for "
            "each micro-batch, and change no tensor in place"
            + ("; or try --no-exact" if split == "train" else "")
        )
    return [float(torch.linalg.vector_norm(numbers)) for numbers in first]


def _numbers(dataset: MapDataset, collate: Collate, index: int) -> torch.Tensor:
    """Return all numbers of one sample, float64; not texts: paths may differ, as machines may."""
    found = [torch.zeros(0, dtype=torch.float64)]
    for leaf in leaves_of(read_batch(dataset, collate, [index])):
        if isinstance(leaf, int | float):
            found.append(torch.tensor([leaf], dtype=torch.float64))
            continue
        _, tensors = taken_apart(leaf)
        found.extend(map(_flat, tensors))
    # NaN is not equal to itself, and an infinite norm would tell nothing.
    return torch.cat(found).nan_to_num(nan=math.pi, posinf=math.e, neginf=-math.e)


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return the numbers of a tensor of any type and layout, float64, on the CPU."""
    if tensor.is_nested:
        return torch.cat([_flat(part) for part in tensor.unbind()])
    if tensor.layout != torch.strided:
        tensor = tensor.to_dense()
    numbers = torch.view_as_real(tensor) if tensor.is_complex() else tensor
    return numbers.detach().flatten().to("cpu", torch.float64)
