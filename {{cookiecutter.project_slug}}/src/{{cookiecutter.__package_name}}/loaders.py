"""Readers of the data set: which samples comes from `sampling`, what they are from `data`."""

import atexit
import multiprocessing
import random
import signal
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from .config import TrainConfig
from .devices import Devices
from .plan import Plan
from .sampling import EvaluationSampler, MicroBatch, TrainSampler
from .stopping import signals_held_back


class MapDataset(Protocol):
    """A map-style data set that knows its size, as `data.load_split` returns it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def make_train_loader(dataset: MapDataset, plan: Plan) -> DataLoader[Any]:
    """Return this rank's micro-batches of all steps that are left, in one pass."""
    config = plan.config
    sampler = TrainSampler(
        plan.num_train_samples,
        global_batch_size=config.global_batch_size,
        micro_batch_size=config.micro_batch_size,
        seed=config.seed,
        steps=plan.steps,
        passes=plan.own_passes,
    )
    return _make_loader(dataset, sampler, config, plan.devices)


def make_eval_loader(dataset: MapDataset, config: TrainConfig, devices: Devices) -> DataLoader[Any]:
    """Return this rank's batches of one evaluation; no sample is on two ranks, none is padding."""
    sampler = EvaluationSampler(
        len(dataset),
        batch_size=config.micro_batch_size,
        rank=devices.rank,
        world_size=devices.world_size,
    )
    return _make_loader(dataset, sampler, config, devices)


def _make_loader(
    dataset: MapDataset,
    sampler: Sampler[list[MicroBatch]],
    config: TrainConfig,
    devices: Devices,
) -> DataLoader[Any]:
    if config.num_workers:
        atexit.register(_end_workers)
    return _Loader(
        MicroBatchReader(dataset),
        sampler=sampler,
        batch_size=None,
        num_workers=config.num_workers,
        # A training loader is read once; starting readers for each evaluation takes half a second.
        persistent_workers=config.num_workers > 0,
        pin_memory=devices.device.type == "cuda",
        # Without its own generator, each new iterator would take a number from the global one.
        generator=torch.Generator(),
    )


class _Loader(DataLoader[Any]):
    """A `DataLoader` whose worker processes are ended by it alone."""

    def __iter__(self) -> Any:
        with signals_held_back():
            return super().__iter__()


def _end_workers() -> None:
    """End readers that an error has left over: Python would wait for them without end."""
    if hasattr(signal, "SIGCHLD"):
        # PyTorch's own handler would report each of them as a failure.
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for process in multiprocessing.active_children():
        process.kill()


class MicroBatchReader(Dataset[Any]):
    """Reads whole micro-batches of a data set, each with the random numbers that are its own."""

    def __init__(self, dataset: MapDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, micro_batches: list[MicroBatch]) -> Any:
        """Return the collated micro-batches, joined along the first dimension."""
        batches = [self._read(micro_batch) for micro_batch in micro_batches]
        return (
            batches[0]
            if len(batches) == 1
            else [torch.cat(parts) for parts in zip(*batches, strict=True)]
        )

    def _read(self, micro_batch: MicroBatch) -> Any:
        torch.manual_seed(micro_batch.seed)
        np.random.seed(micro_batch.seed % 2**32)
        random.seed(micro_batch.seed)
        if hasattr(self.dataset, "__getitems__"):
            batch = self.dataset.__getitems__(micro_batch.samples)
        else:
            batch = [self.dataset[sample] for sample in micro_batch.samples]
        return default_collate(batch) if isinstance(batch, list) else batch
