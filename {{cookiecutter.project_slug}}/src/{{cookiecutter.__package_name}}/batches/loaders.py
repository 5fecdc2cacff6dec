"""Batches on this rank's device: `sampling` says which samples, `data.py` what they are."""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, Protocol

import torch
from torch.utils.data import Dataset, default_collate

from ..distributed.devices import Devices
from ..distributed.signal_watch import WATCH
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .plan import Plan
from .sampling import EvaluationSampler, MicroBatch, train_micro_batches
from .seeds import EVALUATION_STREAM, derive_seed, seed_all
from .structure import concatenate, to_device
from .workers import WorkerLoader

Collate = Callable[[list[Any]], Any] | None
"""Turns a list of samples into a batch; None is PyTorch's `default_collate`."""


class MapDataset(Protocol):
    """A map-style data set with a length, as `data.load_split` returns it."""

    def __len__(self) -> int: ...

    def __getitem__(self, index: int, /) -> Any: ...


def make_train_batches(dataset: MapDataset, collate: Collate, plan: Plan) -> Iterator[Any]:
    """Return an iterator over this rank's batches of all steps that are left, one per pass."""
    reader, sampler = MicroBatchReader(dataset, collate), train_micro_batches(plan)
    loader = _make_loader(reader, sampler, plan.config, plan.devices)
    return (to_device(batch, plan.devices.device) for batch in loader)


class EvaluationLoader:
    """This rank's share of a split, in batches on its device; each sample counts once."""

    def __init__(
        self, dataset: MapDataset, collate: Collate, config: RunConfig, devices: Devices
    ) -> None:
        self.num_samples = len(dataset)
        self._device, self._seed = devices.device, config.seed
        self._sampler = EvaluationSampler(
            len(dataset),
            batch_size=config.eval_batch_size or config.micro_batch_size,
            seed=config.seed,
            rank=devices.rank,
            world_size=devices.world_size,
            # Compiled code is for one size: another one is compiled anew.
            is_padded=config.compile,
        )
        reader = MicroBatchReader(dataset, collate)
        self._loader = _make_loader(reader, self._sampler, config, devices)

    def num_read(self, samples: range) -> int:
        """Return the number of samples of the batch that holds `samples`: more, if padded."""
        return self._sampler.batch_size if self._sampler.is_padded else len(samples)

    def __iter__(self) -> Iterator[tuple[range | None, Any]]:
        """Yield `(samples, batch)`; `samples` is None for a repeated batch, not counted.

        The generators are seeded for what the model does with the batch, and after the last one for
        what is then made of the scores.
        """
        shares = zip(
            self._sampler.counted(), self._sampler.batch_indices, self._loader, strict=True
        )
        for samples, index, batch in shares:
            WATCH.progress()
            seed_all(derive_seed(self._seed, EVALUATION_STREAM, index, 1))
            yield samples, to_device(batch, self._device)
        seed_all(derive_seed(self._seed, EVALUATION_STREAM, 0, 2))


def _make_loader(
    reader: "MicroBatchReader",
    sampler: Iterable[list[MicroBatch]],
    config: RunConfig,
    devices: Devices,
) -> Iterable[Any]:
    if not config.num_workers:
        return _Reading(reader, sampler)
    return WorkerLoader(
        reader,
        sampler=sampler,
        batch_size=None,
        num_workers=config.num_workers,
        threads=config.threads or 1,
        # Starting workers again for each evaluation takes half a second.
        persistent_workers=True,
        pin_memory=devices.device.type == "cuda",
        # Otherwise each new iterator draws a number from the global generator.
        generator=torch.Generator(),
    )


class _Reading:
    """Reads batches in this process; a `DataLoader` takes 6 microseconds more for each."""

    def __init__(self, reader: "MicroBatchReader", sampler: Iterable[list[MicroBatch]]) -> None:
        self.reader, self.sampler = reader, sampler

    def __iter__(self) -> Iterator[Any]:
        return map(self.reader.__getitem__, self.sampler)


class MicroBatchReader(Dataset[Any]):
    """Reads a data set by micro-batches, each with random numbers of its own."""

    def __init__(self, dataset: MapDataset, collate: Collate = None) -> None:
        self.dataset = dataset
        self.collate = collate or default_collate

    def __getitem__(self, micro_batches: list[MicroBatch]) -> Any:
        """Return the collated micro-batches, concatenated along the first dimension.

        Raises:
            SettingError: DataParallel has several, which do not have one shape.
        """
        batches = [self._read(micro_batch) for micro_batch in micro_batches]
        if len(batches) == 1:
            return batches[0]
        try:
            return concatenate(batches)
        except ValueError as error:
            raise SettingError(
                f"DataParallel cannot concatenate these batches ({error}); try torchrun, for DDP"
            ) from error

    def _read(self, micro_batch: MicroBatch) -> Any:
        seed_all(micro_batch.seed)
        if hasattr(self.dataset, "__getitems__"):
            batch = self.dataset.__getitems__(micro_batch.samples)
        else:
            batch = [self.dataset[sample] for sample in micro_batch.samples]
        return self.collate(batch) if isinstance(batch, list) else batch
