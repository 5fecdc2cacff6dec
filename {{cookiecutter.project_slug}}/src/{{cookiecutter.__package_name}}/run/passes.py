"""What the forward passes of a step cost, against a single one: measured for `--plan`."""

import time

import torch
from torch import nn

from ..batches.loaders import Collate, MapDataset
from ..batches.plan import Plan
from ..settings.errors import SettingError
from ..settings.run_config import RunConfig
from .contract import ComputeLoss
from .users_code import call_users, read_batch

NUM_ROUNDS = 3
# Of a global batch: a second or two for all rounds, on one thread.
MOST_FLOPS = 2e10


def part_of_one_pass(
    dataset: MapDataset,
    collate: Collate,
    config: RunConfig,
    model: nn.Module,
    compute_loss: ComputeLoss,
    flops_per_sample: float,
) -> float | None:
    """Return the time of a global batch in one pass on the CPU, relative to that in micro-batches.

    None if a step has one pass anyway, if the data set has no whole global batch, or if that takes
    long or cannot be computed.
    """
    takes_long = config.global_batch_size * flops_per_sample > MOST_FLOPS
    has_none = len(dataset) < config.global_batch_size
    if config.num_micro_batches == 1 or has_none or takes_long:
        return None
    seconds: dict[int, list[float]] = {config.micro_batch_size: [], config.global_batch_size: []}
    for _ in range(NUM_ROUNDS):
        for size, taken in seconds.items():
            start = time.perf_counter()
            try:
                batch = read_batch(dataset, collate, list(range(size)))
                loss, _ = call_users("compute_loss", compute_loss, model, batch)
                torch.autograd.backward(loss)
            except (SettingError, RuntimeError):
                return None
            taken.append(time.perf_counter() - start)
    micro_batch, whole = map(min, seconds.values())
    return whole / (config.num_micro_batches * micro_batch)


def cost_row(plan: Plan, part: float | None) -> dict[str, str]:
    """Return the row of the plan; none if a step has one pass."""
    num_passes = plan.gradient_accumulation_steps
    if num_passes == 1:
        return {}
    size = plan.config.global_batch_size // plan.devices.data_parallel_size
    # Measured on the CPU, which says nothing of a GPU.
    is_measured = part is not None and plan.devices.device.type == "cpu"
    faster = f"takes {part:.0%} of their time here" if is_measured else "is faster"
    purpose = "the same bits on more processes" if plan.devices.exact else "smaller memory"
    one = f"one (--no-exact --micro-batch-size {size}) {faster}"
    return {"Passes": f"{num_passes} per step, for {purpose}; {one}"}
