"""Running statistics of BatchNorm in the order of the micro-batches, on every rank.

Normalization by the statistics of a micro-batch does not depend on the placement, but the running
statistics would: each rank averages its own micro-batches, and DDP keeps those of rank 0. Measured
on 1 and 2 processes without this: a validation accuracy of 75.9 and 68.5 %. Here every rank applies
what all micro-batches of a step add, one after the other.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batches.plan import Plan
from ..distributed.collectives import sum_over_ranks


class BatchNormSum:
    """Collects what each micro-batch adds, and updates the running statistics once per step.

    Each micro-batch starts from those of the step before. If it uses a layer n times, it leaves
    (1 - momentum)^n of them, and adds its own.
    """

    def __init__(self, model: nn.Module, plan: Plan) -> None:
        self.layers: list[Any] = [
            layer
            for layer in model.modules()
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None
        ]
        if not self.layers:
            return
        self.devices_per_process, self.last_pass = plan.devices.devices_per_process, plan.passes[-1]
        self.buffers = [buffer for layer in self.layers for buffer in _statistics(layer)]
        self.sizes = [len(buffer) for buffer in self.buffers]
        self.running = self._latest()
        self.counters: list[Tensor] = [layer.num_batches_tracked for layer in self.layers]
        self.counted = torch.stack(self.counters)
        self.running_parts = list(torch.split(self.running, self.sizes))
        self.counted_parts = list(self.counted.unbind())
        sizes = torch.tensor([2 * layer.num_features for layer in self.layers])
        layer_of = torch.arange(len(self.layers)).repeat_interleave(sizes)
        self.layer_of = layer_of.to(self.running.device)
        """(features,): index of the layer."""

        self.statistics = self.running.new_zeros(
            (plan.config.num_micro_batches, sum(self.sizes) + len(self.layers))
        )
        """(micro-batches per step, features + layers): the buffers after each micro-batch, and how
        often it used a layer; of which this rank's are set."""

        self.kept = self.running.new_tensor([1 - layer.momentum for layer in self.layers])
        """(layers,): share of the running statistics that a use of the layer leaves."""

        if self.devices_per_process > 1:
            for index, layer in enumerate(self.layers):
                layer.position = index
                layer.register_forward_hook(self._collect_replica)
        self._noted = self.statistics[0]
        self._replicas: dict[tuple[int, int], Tensor] = {}
        self._noted_replicas = self._replicas

    def note(self) -> None:
        """Copy the buffers after a forward pass, before activation checkpoints repeat it."""
        if not self.layers:
            return
        if self.devices_per_process == 1:
            uses = torch.stack(self.counters) - self.counted
            self._noted = torch.cat([self._latest(), uses])
        else:
            self._noted_replicas, self._replicas = self._replicas, {}

    def collect(self, k: int) -> None:
        """Collect what was noted of forward pass k of a step."""
        if not self.layers:
            return
        if self.devices_per_process == 1:
            self.statistics[k] = self._noted
        else:
            self._collect_replicas(k)
        if k != self.last_pass:
            self._reset()

    def finish(self) -> None:
        """Update the running statistics by those of all micro-batches; all ranks call it."""
        if not self.layers:
            return
        sum_over_ranks(self.statistics)
        sizes = [sum(self.sizes), len(self.layers)]
        latest, uses = torch.split(self.statistics, sizes, dim=1)
        kept = (self.kept**uses)[:, self.layer_of]
        parts = zip(self.running_parts, self.buffers, strict=True)
        added = latest - kept * torch.cat([part.to(buffer.dtype).float() for part, buffer in parts])
        # A step with NaN may be skipped: its statistics are.
        counts = (uses > 0)[:, self.layer_of] & latest.isfinite()
        running = self.running
        for share, row, is_counted in zip(kept, added, counts, strict=True):
            running = torch.where(is_counted, torch.addcmul(row, share, running), running)
        self.running.copy_(running)
        self.counted += uses.sum(dim=0).to(self.counted.dtype)
        self.statistics.zero_()
        self._reset()

    def _latest(self) -> Tensor:
        """Return mean and variance of each layer as one vector."""
        return torch.cat([buffer.float() for buffer in self.buffers])

    def _reset(self) -> None:
        """Let the layers have the running statistics."""
        # A few launches for all layers: one for each of them takes half a millisecond on a GPU.
        torch._foreach_copy_(self.buffers, self.running_parts)
        torch._foreach_copy_(self.counters, self.counted_parts)

    def _collect_replica(self, replica: Any, inputs: Any, output: Any) -> None:
        """Forward hook: DataParallel discards the buffers of all replicas but the first."""
        if replica.training:
            device = replica.running_mean.device.index or 0
            home = self.running.device
            tracked = replica.num_batches_tracked
            uses = tracked - self.counted[replica.position].to(tracked.device)
            rows = [*_statistics(replica), uses.reshape(1)]
            found = torch.cat([row.detach().float() for row in rows]).to(home)
            self._replicas[device, replica.position] = found

    def _collect_replicas(self, k: int) -> None:
        for (device, index), found in self._noted_replicas.items():
            row = self.statistics[k * self.devices_per_process + device]
            row[: -len(self.layers)][self.layer_of == index] = found[:-1]
            row[index - len(self.layers)] = found[-1]
        self._replicas.clear()


def _statistics(layer: Any) -> tuple[Tensor, Tensor]:
    return layer.running_mean, layer.running_var
