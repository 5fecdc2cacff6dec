"""The work that every loop does: the project's data, model, loss, optimizer and schedule.

Reading is as fast for every loop as in the project: whole batches, where the data set has them.
"""

import math
import os
import sys
from collections.abc import Iterator
from typing import Any

import torch
from my_run.batches.structure import to_device
from my_run.config import TrainConfig
from my_run.data import collate, describe, load_split, prepare
from my_run.model import compute_loss, make_model, score, summarize
from my_run.optimizer import make_optimizer, set_learning_rate
from my_run.settings.command_line import parse_command_line
from torch import Tensor, nn
from torch.utils.data import DataLoader, default_collate

from .recorder import STOP, Recorder

__all__ = ["Work", "compute_loss"]


class Work:
    """Data, model and optimizer on their device, from the flags of `train`; one process."""

    def __init__(self) -> None:
        self.config: Any = parse_command_line(TrainConfig, sys.argv[1:])
        config = self.config
        self.is_gpu = config.placement != "cpu"
        self.device = torch.device("cuda" if self.is_gpu else "cpu")
        # As in the project's exact runs, and what a fair comparison takes.
        torch.set_num_threads(1)
        torch.manual_seed(config.seed)
        prepare(config)
        info = describe(config)
        self.train_set: Any = load_split("train", config, info, augmented=True)
        self.splits = {name: load_split(name, config, info) for name in ("validation", "test")}
        self.model: nn.Module = make_model(config, info).to(self.device)
        if config.compile:
            self.model.compile()
        self.optimizer = make_optimizer(self.model, config)
        self.batch_size, self.micro_batch_size = config.global_batch_size, config.micro_batch_size
        self.passes = self.batch_size // self.micro_batch_size
        self.steps_per_epoch = len(self.train_set) // self.batch_size
        self.steps: int = config.max_steps
        self.recorder = Recorder(self.steps, is_gpu=self.is_gpu)

    def autocast(self) -> torch.autocast:
        """Return a context for the forward pass."""
        is_bf16 = self.config.mixed_precision == "bf16"
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=is_bf16)

    def read(self, samples: list[int]) -> Any:
        """Return samples as a batch, on the device."""
        return self.to_device(read_batch(self.train_set, samples))

    def to_device(self, batch: Any) -> Any:
        """Return a batch on the device, without waiting for the copy."""
        return to_device(batch, self.device)

    def loader(self, dataset: Any = None, *, shuffle: bool = True) -> DataLoader[Any]:
        """Return a `DataLoader` of micro-batches, as the documentation of the libraries has it."""
        return DataLoader(
            self.train_set if dataset is None else dataset,
            batch_size=self.micro_batch_size,
            shuffle=shuffle,
            drop_last=shuffle,
            collate_fn=collate_batch,
            pin_memory=self.is_gpu,
        )

    def endless(self, loader: Any) -> Iterator[Any]:
        """Yield the batches of epoch after epoch, with whole steps in each."""
        while True:
            for index, batch in enumerate(loader):
                if index == self.steps_per_epoch * self.passes:
                    break
                yield batch

    def set_rate(self, step: int) -> float:
        """Set the learning rate of a step, counted from 1."""
        return set_learning_rate(self.optimizer, step, self.config, self.steps)

    def evaluates_at(self, step: int) -> bool:
        """Return whether the project validates after this step."""
        every = self.config.eval_every
        is_last = step == self.steps and STOP not in os.environ
        return bool(every and step % every == 0) or is_last

    @torch.no_grad()
    def evaluate(self, split: str = "validation", model: nn.Module | None = None) -> float:
        """Return the loss of a split, from batches of the size of a pass."""
        model = model or self.model
        was_training = model.training
        model.eval()
        rows: list[dict[str, Tensor]] = []
        for batch in self.loader(self.splits[split], shuffle=False):
            with self.autocast():
                rows.append(score(model, self.to_device(batch)))
        model.train(was_training)
        columns = {name: torch.cat([row[name] for row in rows]).cpu() for name in rows[0]}
        return float(summarize(columns)["loss"])

    def finish(self, model: nn.Module | None = None) -> None:
        """Test, and write what was noted."""
        self.recorder.finish(math.nan if STOP in os.environ else self.evaluate("test", model))


def read_batch(dataset: Any, samples: list[int]) -> Any:
    """Return samples as a batch."""
    if hasattr(dataset, "__getitems__"):
        return collate_batch(dataset.__getitems__(samples))
    return collate_batch([dataset[sample] for sample in samples])


def collate_batch(batch: Any) -> Any:
    """Return a list of samples as a batch; what is a batch already as it is."""
    return (collate or default_collate)(batch) if isinstance(batch, list) else batch
