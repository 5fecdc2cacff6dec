"""What FSDP2 needs of a model and its loss: its ranks gather weights and gradients together."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from torch import nn

from ..batches.plan import Plan
from ..distributed.shards import sharded_modules
from ..settings.errors import SettingError
from .call_order import END, calls_noted
from .trial import Trial


def check_for_fsdp2(plan: Plan, trial: Trial) -> None:
    """Check what the trial found out about the model and its loss, if the run is one of FSDP2.

    Raises:
        SettingError: FSDP2 cannot train this model, or not with this loss.
    """
    if plan.devices.strategy != "fsdp2":
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


@contextmanager
def calls_checked(model: nn.Module, plan: Plan, trial: Trial) -> Iterator[None]:
    """Check the modules that forward passes call inside, if the run is one of FSDP2.

    Compiled code would be compiled anew for each call that is noted, and is not checked.
    """
    if plan.devices.strategy == "fsdp2" and not plan.config.compile:
        with calls_noted(model, SameCalls(model, trial.calls)):
            yield
    else:
        yield


class SameCalls:
    """Checks that each pass calls the modules that the trial called.

    FSDP2 gathers the weights of a unit on all ranks together: a rank that skips the unit, such as a
    layer dropped at random, would receive those of another. Within a unit, ranks reduce the
    gradients that they have: with a router, those of different experts.

    Args:
        model: The sharded model.
        calls: What `calls_noted` noted in the trial.
    """

    def __init__(self, model: nn.Module, calls: Sequence[str]) -> None:
        shards = sharded_modules(model)
        modules = dict(model.named_modules())
        self._units = {name for name, module in modules.items() if module in shards} | {END}
        with_weights = {name for name, m in modules.items() if [*m.parameters(recurse=False)]}
        self._others = with_weights - self._units
        self._passes: list[tuple[list[str], set[str]]] = []
        """Of each forward pass of the loss: the order of the units, and which others it uses."""

        start = 0
        for end, call in enumerate(calls, start=1):
            if call == END:
                order = [call for call in calls[start:end] if call in self._units]
                self._passes.append((order, self._others.intersection(calls[start:end])))
                start = end
        self._number = self._position = 0
        self._used: set[str] = set()

    def __call__(self, call: str) -> None:
        """Check the next call.

        Raises:
            SettingError: there was another one in the trial.
        """
        if call in self._others:
            self._used.add(call)
        if call not in self._units:
            return
        order, used = self._passes[self._number]
        expected = order[self._position]
        if call != expected:
            # The model itself has no name.
            raise _other_call(
                f"comes to {call or 'the model'}, and came to {expected or 'the model'}"
            )
        self._position += 1
        if call == END:
            if skipped := sorted(used - self._used):
                raise _other_call(f"does not call {skipped[0]}, and did")
            if added := sorted(self._used - used):
                raise _other_call(f"calls {added[0]}, and did not")
            self._number = (self._number + 1) % len(self._passes)
            self._position, self._used = 0, set()


def _other_call(what: str) -> SettingError:
    return SettingError(
        f"model.py: a forward pass {what} in the first micro-batch; FSDP2 needs the same modules "
        "in every pass; try DDP"
    )
