"""What FSDP2 needs of a model and its loss: its ranks gather weights and gradients together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..batches.plan import Plan
from ..distributed.shards import sharded_modules
from ..settings.errors import SettingError
from .call_order import END, calls_noted
from .trial import Trial


@contextmanager
def checked_for_fsdp2(model: nn.Module, plan: Plan, trial: Trial) -> Iterator[None]:
    """Check what the trial found out, and the forward passes inside; nothing without FSDP2.

    Raises:
        SettingError: FSDP2 cannot train this model, or not with this loss.
    """
    if plan.devices.strategy != "fsdp2":
        yield
        return
    if trial.without_gradient:
        # The ranks exchange the gradients that they have, which may be others on each.
        raise SettingError(
            f"model.py: {', '.join(trial.without_gradient[:3])} had no gradient in the first "
            "micro-batch, and FSDP2 needs that of every parameter; freeze what is never used, "
            "by requires_grad_(False), or try DDP"
        )
    if trial.has_second_derivative:
        # It ends in a segmentation fault, or an error of a storage.
        raise SettingError(
            "model.py: the loss has a gradient in it, and FSDP2 frees the weights that the second "
            "derivative needs; try DDP"
        )
    if plan.config.compile:
        # Compiled code would be compiled anew for each call that is noted.
        yield
        return
    with calls_noted(model, SameCalls(model, trial.calls)):
        yield


class SameCalls:
    """Checks that each pass calls the modules which FSDP2 has sharded as the trial did.

    Its ranks gather the weights of a module together: one that skips a module, as with a layer that
    is dropped at random, would get those of another.

    Args:
        model: The sharded model.
        calls: What `calls_noted` noted in the trial.
    """

    def __init__(self, model: nn.Module, calls: Sequence[str]) -> None:
        shards = sharded_modules(model)
        units = {name for name, module in model.named_modules() if module in shards}
        self._expected = [call for call in calls if call in units or call == END]
        self._units = units | {END}
        self._position = 0

    def __call__(self, call: str) -> None:
        """Check the next call.

        Raises:
            SettingError: it was another one in the trial.
        """
        if call not in self._units:
            return
        expected = self._expected[self._position % len(self._expected)]
        if call != expected:
            raise SettingError(
                f"model.py: a forward pass comes to {call}, and came to {expected} in the first "
                "micro-batch; FSDP2 needs the same modules in every pass; try DDP"
            )
        self._position += 1
