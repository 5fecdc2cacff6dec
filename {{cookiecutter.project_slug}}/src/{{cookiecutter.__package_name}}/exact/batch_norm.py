"""Running statistics of BatchNorm in the order of the micro-batches, on every rank.

Normalization by the statistics of a micro-batch does not depend on the placement, but the running
statistics would: each rank averages its own micro-batches, and DDP keeps those of rank 0. Measured
on 1 and 2 processes without this: a validation accuracy of 75.9 and 68.5 %. Here every rank applies
the statistics of all micro-batches of a step, one after the other.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batches.plan import Plan
from ..distributed.collectives import sum_over_ranks


class BatchNormSum:
    """Collects the statistics of each micro-batch, and updates the running ones once per step.

    With a momentum of 1, the buffers of a BatchNorm hold the statistics of the last batch. So they
    hold the running statistics between the steps only.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.layers: list[Any] = [
            layer
            for layer in model.modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        if not self.layers:
            return
        self.num_micro_batches = plan.config.num_micro_batches
        self.devices_per_process = plan.devices.devices_per_process
        self.running = self._buffers()
        self.statistics = self.running.new_zeros((self.num_micro_batches, self.running.numel()))
        """(micro-batches per step, features), of which this rank's are set."""

        self.momentum = torch.cat([self._momentum_of(layer) for layer in self.layers])
        self.sizes = [len(statistic) for layer in self.layers for statistic in _statistics(layer)]
        self.counters: list[Tensor] = [
            layer.num_batches_tracked
            for layer in self.layers
            if layer.num_batches_tracked is not None
        ]
        self.counted = [counter.clone() for counter in self.counters]
        for index, layer in enumerate(self.layers):
            layer.momentum = 1.0
            if self.devices_per_process > 1:
                layer.position = index
                layer.register_forward_hook(self._collect_replica)
        self._replicas: dict[tuple[int, int], list[Tensor]] = {}

    def collect(self, k: int) -> None:
        """Copy the statistics of forward pass k of a step."""
        if not self.layers:
            return
        if self.devices_per_process == 1:
            self.statistics[k] = self._buffers()
            return
        for device in range(self.devices_per_process):
            rows = [self._replicas[device, index] for index in range(len(self.layers))]
            row = torch.cat([tensor for row in rows for tensor in row])
            self.statistics[k * self.devices_per_process + device] = row

    def finish(self) -> None:
        """Update the running statistics by those of all micro-batches; all ranks call it."""
        if not self.layers:
            return
        sum_over_ranks(self.statistics)
        for row in self.statistics:
            updated = torch.lerp(self.running, row, self.momentum)
            # A step with NaN may be skipped: its statistics are.
            self.running = torch.where(row.isfinite(), updated, self.running)
        self.statistics.zero_()
        buffers = [statistic for layer in self.layers for statistic in _statistics(layer)]
        # A few launches for all layers: one for each of them takes half a millisecond on a GPU.
        torch._foreach_copy_(buffers, list(torch.split(self.running, self.sizes)))
        if self.counters:
            torch._foreach_add_(self.counted, self.num_micro_batches)
            torch._foreach_copy_(self.counters, self.counted)

    def _buffers(self) -> Tensor:
        """Return mean and variance of each layer as one vector."""
        return torch.cat([t.float() for layer in self.layers for t in _statistics(layer)])

    def _momentum_of(self, layer: Any) -> Tensor:
        momentum: Tensor = layer.running_mean.new_full((2 * layer.num_features,), layer.momentum)
        return momentum.float()

    def _collect_replica(self, replica: Any, inputs: Any, output: Any) -> None:
        """Forward hook: DataParallel discards the buffers of all replicas but the first."""
        if replica.training:
            device = replica.running_mean.device.index or 0
            home = self.running.device
            rows = [tensor.detach().float().to(home) for tensor in _statistics(replica)]
            self._replicas[device, replica.position] = rows


def _statistics(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var
