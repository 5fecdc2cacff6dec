"""Batches on this rank's device: `sampling` says which samples, `data.py` what they are."""

import atexit
import multiprocessing
import random
import signal
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from ..distributed.devices import Devices
from ..distributed.signals import signals_blocked
from ..settings.run_config import RunConfig
from .plan import Plan
from .sampling import EvaluationSampler, MicroBatch, TrainSampler
from .seeds import seed_torch


class MapDataset(Protocol):
    """A map-style data set with a length, as `data.load_split` returns it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def make_train_batches(dataset: MapDataset, plan: Plan) -> Iterator[Any]:
    """Return an iterator over this rank's batches of all steps that are left, one per pass."""
    config, devices = plan.config, plan.devices
    sampler = TrainSampler(
        plan.num_train_samples,
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.micro_batch_size,
        seed=config.seed,
        steps=plan.steps,
        passes=plan.passes,
        devices_per_process=devices.devices_per_process,
    )
    loader = iter(_make_loader(dataset, sampler, config, devices))
    return (to_device(batch, devices.device) for batch in loader)


class EvaluationLoader:
    """This rank's share of a split, in batches on its device; each sample counts once."""

    def __init__(self, dataset: MapDataset, config: RunConfig, devices: Devices) -> None:
        self.num_samples = len(dataset)
        self._device = devices.device
        self._sampler = EvaluationSampler(
            len(dataset),
            batch_size=config.micro_batch_size,
            rank=devices.rank,
            world_size=devices.world_size,
        )
        self._loader = _make_loader(dataset, self._sampler, config, devices)

    def __iter__(self) -> Iterator[tuple[range | None, Any]]:
        """Yield `(samples, batch)`; `samples` is None for a repeated batch, not counted."""
        for samples, batch in zip(self._sampler.counted(), self._loader, strict=True):
            yield samples, to_device(batch, self._device)


def _make_loader(
    dataset: MapDataset, sampler: Sampler[list[MicroBatch]], config: RunConfig, devices: Devices
) -> DataLoader[Any]:
    if config.num_workers:
        atexit.register(_kill_workers)
    return _Loader(
        MicroBatchReader(dataset),
        sampler=sampler,
        batch_size=None,
        num_workers=config.num_workers,
        # Starting workers again for each evaluation takes half a second.
        persistent_workers=config.num_workers > 0,
        pin_memory=devices.device.type == "cuda",
        # Otherwise each new iterator draws a number from the global generator.
        generator=torch.Generator(),
    )


class _Loader(DataLoader[Any]):
    """A `DataLoader` whose workers ignore the signals that stop the run."""

    def __iter__(self) -> Any:
        with signals_blocked():
            return super().__iter__()


def _kill_workers() -> None:
    """Kill workers that are left after an error: Python would wait for them forever."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's handler would report each of them as a failure.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        process.kill()


class MicroBatchReader(Dataset[Any]):
    """Reads a data set by micro-batches, each with random numbers of its own."""

    def __init__(self, dataset: MapDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, micro_batches: list[MicroBatch]) -> Any:
        """Return the collated micro-batches, concatenated along the first dimension."""
        batches = [self._read(micro_batch) for micro_batch in micro_batches]
        return batches[0] if len(batches) == 1 else _map_tensors(_concatenate, *batches)

    def _read(self, micro_batch: MicroBatch) -> Any:
        seed_torch(micro_batch.seed)
        np.random.seed(micro_batch.seed % 2**32)
        random.seed(micro_batch.seed)
        if hasattr(self.dataset, "__getitems__"):
            batch = self.dataset.__getitems__(micro_batch.samples)
        else:
            batch = [self.dataset[sample] for sample in micro_batch.samples]
        return default_collate(batch) if isinstance(batch, list) else batch


def to_device(batch: Any, device: torch.device) -> Any:
    """Return a batch whose tensors, also those in tuples, lists and dictionaries, are on device."""
    return _map_tensors(lambda tensor: tensor.to(device, non_blocking=True), batch)


def _concatenate(*tensors: Tensor) -> Tensor:
    return torch.cat(tensors)


def _map_tensors(function: Callable[..., Any], *batches: Any) -> Any:
    """Apply `function` to the tensors at the same place in batches of the same structure."""
    first = batches[0]
    if isinstance(first, Mapping):
        return {key: _map_tensors(function, *(batch[key] for batch in batches)) for key in first}
    if isinstance(first, tuple | list):
        parts = [_map_tensors(function, *parts) for parts in zip(*batches, strict=True)]
        return type(first)(*parts) if hasattr(first, "_fields") else type(first)(parts)
    return function(*batches) if isinstance(first, Tensor) else first
