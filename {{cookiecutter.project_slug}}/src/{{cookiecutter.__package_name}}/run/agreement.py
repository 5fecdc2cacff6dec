"""Before training, all ranks compare what decides about the result."""

import math
import platform
import socket
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..checkpoint.data_info import SAME_SAMPLES, SAMPLES, changed_splits
from ..distributed.collectives import gather_from_ranks, is_distributed
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from ..settings.values import leaves_of

# Which do not change what a rank computes.
MAY_DIFFER = ("num_workers", "tracker")


def check_agreement(config: RunConfig, info: Mapping[str, Any], num_samples: int) -> None:
    """Check that all ranks have the same settings, code, versions and data; all ranks call it.

    A machine that was started with another seed, or has another version of the code, would train
    on to other weights, or wait for ever in a collective.

    Args:
        config: This rank's settings; paths may differ, because machines may.
        info: What `describe` of data.py returned, and norms of samples.
        num_samples: Size of the data set.

    Raises:
        SettingError: a rank has something else than rank 0.
    """
    if not is_distributed():
        return
    settings = {
        name: value
        for name, value in config.saved().items()
        if name not in MAY_DIFFER and not _has_path(getattr(config, name))
    }
    described = {name: value for name, value in info.items() if name != SAMPLES}
    facts = {
        **settings,
        **{f"describe of data.py: {name}": value for name, value in described.items()},
        "samples": num_samples,
        "code of the package": _digest_of_code(),
        "Python": platform.python_version(),
        "torch": torch.__version__,
        "accelerate": version("accelerate"),
    }
    # As text: NaN is not equal to itself.
    mine = {name: str(value) for name, value in facts.items()}
    ranks = gather_from_ranks((socket.gethostname(), mine, info))
    first_host, first, _ = ranks[0]
    differences = [
        f"{name} is {_shown(first, name)} on {first_host} (rank 0) and {_shown(other, name)} on "
        f"{host} (rank {rank})"
        for rank, (host, other, _) in enumerate(ranks)
        for name in {**first, **other}
        if first.get(name) != other.get(name)
    ]
    if differences:
        more = f", and {len(differences) - 3} more" if len(differences) > 3 else ""
        raise SettingError(
            f"ranks differ: {', '.join(differences[:3])}{more}; start all with the same flags, "
            "code, versions and data"
        )
    _check_samples([(host, data) for host, _, data in ranks])


def _check_samples(ranks: Sequence[tuple[str, Mapping[str, Any]]]) -> None:
    first_host, first = ranks[0]
    for rank, (host, data) in enumerate(ranks):
        if splits := changed_splits(first, data):
            raise SettingError(
                f"data.py: load_split gives other samples of {', '.join(splits)} on {host} "
                f"(rank {rank}) than on {first_host} (rank 0); {SAME_SAMPLES}"
            )


def check_weights(model: nn.Module) -> None:
    """Check that `make_model` gave all ranks the same weights; all ranks call it.

    FSDP2 would put the model together from those of several ranks, and DDP take those of rank 0.

    Raises:
        SettingError: a rank has others than rank 0.
    """
    if not is_distributed():
        return
    ranks = gather_from_ranks((socket.gethostname(), _some_of(model)))
    first_host, first = ranks[0]
    for rank, (host, values) in enumerate(ranks):
        # Another processor may round what it draws otherwise.
        differing = [
            name
            for name, value in values.items()
            if not math.isclose(value, first.get(name, math.nan), rel_tol=1e-3, abs_tol=1e-6)
        ]
        if differing:
            raise SettingError(
                f"model.py: make_model gives {differing[0]} other values on {host} (rank {rank}) "
                f"than on {first_host} (rank 0); draw weights from the global generators of torch, "
                "numpy or random, and load them from the same files"
            )


def _some_of(model: nn.Module) -> dict[str, float]:
    """Return one value of each parameter; the first may be of a padding index."""
    plain = {name: p for name, p in model.named_parameters() if type(p) is nn.Parameter}
    values = {name: p.flatten()[p.numel() // 2].item() for name, p in plain.items() if p.numel()}
    return {name: abs(v) if isinstance(v, complex) else v for name, v in values.items()}


def _has_path(value: Any) -> bool:
    return any(isinstance(leaf, Path) for leaf in leaves_of(value))


def _digest_of_code() -> str:
    """Return a short digest of the package's modules."""
    package = Path(__file__).parents[1]
    digest = sha256()
    for file in sorted(package.rglob("*.py")):
        digest.update(f"{file.relative_to(package).as_posix()}\0".encode() + file.read_bytes())
    return digest.hexdigest()[:12]


def _shown(facts: Mapping[str, str], name: str) -> str:
    text = facts.get(name, "not there")
    return text if len(text) <= 60 else f"{text[:59]}…"
