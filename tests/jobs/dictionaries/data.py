"""Batches as nested dictionaries with names in them, from a data set without `__getitems__`."""

from typing import Any, Literal

import torch
from torch.utils.data import Dataset

from .config import TrainConfig

Split = Literal["train", "validation", "test"]
DataInfo = dict[str, Any]
SIZES = {"train": (0, 300), "validation": (300, 340), "test": (340, 400)}
collate = None


def prepare(config: TrainConfig) -> None:
    """Do nothing."""


def describe(config: TrainConfig) -> DataInfo:
    inputs = torch.stack([sample["inputs"]["x"] for sample in load_split("train", config, {})])
    return {"mean": inputs.mean(dim=0).tolist()}


class Points(Dataset[dict[str, Any]]):
    def __init__(self, first: int, last: int) -> None:
        generator = torch.Generator().manual_seed(0)
        self.x = torch.randn(400, 6, generator=generator)[first:last]
        self.y = (self.x[:, :3] * self.x[:, 3:]).sum(dim=1)

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"inputs": {"x": self.x[index]}, "labels": self.y[index], "id": f"point {index}"}


def load_split(
    split: Split, config: TrainConfig, info: DataInfo, *, augmented: bool = False
) -> Points:
    return Points(*SIZES[split])


def read_inputs(paths: Any) -> Any:
    raise ValueError("not in this job")
