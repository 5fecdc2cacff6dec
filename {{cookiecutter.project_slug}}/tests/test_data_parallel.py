"""DataParallel on a machine without GPUs: a stand-in that copies the model and splits the batch."""

import copy
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from my_run.batches import plan
from my_run.batches.seeds import (
    FORWARD_STREAM,
    derive_seed,
    seed_forward,
)
from my_run.distributed.devices import (
    Devices,
    find_devices,
)
from my_run.reference import data_parallel, single

from .launching import read_metrics, read_summary, run_train, weight_difference
from .tiny.config import TrainConfig
from .tiny.model import Classifier

NUM_REPLICAS = 2


class CpuDataParallel(nn.Module):
    """What `torch.nn.DataParallel` does, on copies in threads of one CPU."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module
        self.sizes: list[int] = []

    def forward(self, inputs: Tensor) -> Tensor:
        shares = inputs.chunk(NUM_REPLICAS)
        self.sizes += [len(share) for share in shares]
        # The copies share the parameters, so that gradients meet in them.
        shared: dict[int, Any] = {id(p): p for p in self.module.parameters()}
        replicas = [copy.deepcopy(self.module, dict(shared)) for _ in shares]
        outputs: list[Tensor] = [torch.empty(0)] * len(shares)
        is_training = torch.is_grad_enabled()

        def work(index: int) -> None:
            with torch.set_grad_enabled(is_training):
                outputs[index] = replicas[index](shares[index])

        threads = [threading.Thread(target=work, args=(index,)) for index in range(len(shares))]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return torch.cat(outputs)


def find_two_devices(config: TrainConfig, strategy: str) -> Devices:
    return replace(find_devices(config, strategy), devices_per_process=NUM_REPLICAS)


def seed_one_device(seed: int, step: int, micro_batches: range) -> None:
    seed_forward(seed, step, micro_batches[:1])


def test_data_parallel_over_two_devices_repeats_the_single_device(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without dropout: the copies draw from one generator here, in the order of their threads."""
    replicating: list[CpuDataParallel] = []

    def wrap(module: nn.Module) -> CpuDataParallel:
        replicating.append(CpuDataParallel(module))
        return replicating[0]

    monkeypatch.setattr(data_parallel, "DataParallel", wrap)
    monkeypatch.setattr(data_parallel, "find_devices", find_two_devices)
    monkeypatch.setattr(plan, "seed_forward", seed_one_device)

    def without_dropout(*arguments: object) -> Classifier:
        return Classifier(dropout=0.0)

    programs = {"single": single, "data_parallel": data_parallel}
    flags = ["--max-steps", 12, "--log-every", 4, "--tracker", "none", "--no-exact"]
    for name, program in programs.items():
        monkeypatch.setattr(program, "make_model", without_dropout)
        run_train(tmp_path / name, *flags, program=f"reference.{name}")

    summary = read_summary(tmp_path / "data_parallel")
    assert (summary["placement"], summary["world_size"]) == ("data_parallel", 1)
    assert (summary["data_parallel_size"], summary["gradient_accumulation_steps"]) == (2, 4)
    # Training passes give each copy a micro-batch; evaluation splits one.
    assert set(replicating[0].sizes) >= {8, 4}
    assert weight_difference(tmp_path / "data_parallel", tmp_path / "single") < 1e-5
    metrics = (read_metrics(tmp_path / name) for name in programs)
    for line, expected in zip(*metrics, strict=True):
        assert line.pop("split") == expected.pop("split")
        assert line == pytest.approx(expected, rel=1e-4)


def test_each_device_draws_the_numbers_of_its_micro_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    generators = [torch.Generator() for _ in range(3)]
    monkeypatch.setattr(torch.cuda, "default_generators", generators)
    seed_forward(5, 7, range(6, 9))

    assert torch.initial_seed() == derive_seed(5, FORWARD_STREAM, 7, 6)
    assert [generator.initial_seed() for generator in generators[1:]] == [
        derive_seed(5, FORWARD_STREAM, 7, micro_batch) for micro_batch in (7, 8)
    ]
