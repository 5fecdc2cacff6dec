"""An exponential moving average of the weights, for evaluation and as the final weights."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from ..distributed.shards import local_part, sharded_modules


class WeightAverage:
    """The average of the weights after each step, `decay x average + (1 - decay) x weights`.

    With a decay of 0 it is off, and the methods do nothing. Under FSDP2 each rank averages its
    shards. Buffers, such as those of BatchNorm, are not averaged.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self._weights = [local_part(p) for p in model.parameters() if p.requires_grad and decay]
        self._average = [weight.clone() for weight in self._weights]
        self._shards = sharded_modules(model)

    def add(self, step: int) -> None:
        """Add the weights after optimizer step `step`, counted from 1.

        The decay starts low, or the average would remember the initial weights for long.

        Source: TensorFlow's ExponentialMovingAverage, argument `num_updates`.
        """
        if self._weights:
            decay = min(self.decay, (1 + step) / (10 + step))
            torch._foreach_lerp_(self._average, self._weights, 1 - decay)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Let the model have the averaged weights inside."""
        if not self._weights:
            yield
            return
        weights = [weight.clone() for weight in self._weights]
        self._set(self._average)
        try:
            yield
        finally:
            self._set(weights)

    def start_from_model(self) -> None:
        """Take the present weights of the model as the average."""
        if self._weights:
            torch._foreach_copy_(self._average, self._weights)

    def _set(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(self._weights, values)
        for module in self._shards:
            # FSDP2 keeps what it has gathered of the root module after a forward pass.
            module.reshard()
