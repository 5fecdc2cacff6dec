"""Numbers that an optimizer keeps in its parameter groups and changes itself, such as a step count.

PyTorch's own optimizers have none; Schedule-Free and Prodigy do.
"""

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.optim import Optimizer

from ..settings.errors import SettingError

PREFIX = "param_groups/"
# The weights; the rate, which is set in each step; and the setting that it is a multiple of.
NOT_KEPT = ("params", "lr", "initial_lr")


def take_group_values(moments: dict[str, Tensor]) -> dict[str, float]:
    """Remove the numbers of the groups from what a checkpoint has of an optimizer; return them."""
    names = [name for name in moments if name.startswith(PREFIX)]
    return {name: moments.pop(name).item() for name in names}


class GroupValues:
    """The numbers in the groups that have changed since the optimizer was made.

    The others are settings: a resumed run has those that it is started with.
    """

    def __init__(self, optimizer: Optimizer) -> None:
        # Not its groups: loading a state replaces them.
        self._optimizer = optimizer
        self._made = self._numbers()

    def changed(self) -> dict[str, Tensor]:
        """Return copies by names like `param_groups/0.k`, for the checkpoint."""
        return {
            # A float of Python has 64 bits.
            name: torch.tensor(value, dtype=torch.float64 if isinstance(value, float) else None)
            for name, value in self._numbers().items()
            if name not in self._made or value != self._made[name]
        }

    def restore(self, saved: Mapping[str, float]) -> None:
        """Set what a checkpoint has; the others to what they were when the optimizer was made.

        Raises:
            SettingError: the optimizer has fewer groups than then.
        """
        groups = self._optimizer.param_groups
        for key, value in {**self._made, **saved}.items():
            index, _, name = key.removeprefix(PREFIX).partition(".")
            if int(index) >= len(groups):
                raise SettingError(
                    f"the checkpoint has {int(index) + 1} parameter groups, the optimizer "
                    f"{len(groups)}; try another --run-dir"
                )
            group = groups[int(index)]
            if isinstance(group.get(name), Tensor):
                group[name].fill_(value)
            else:
                group[name] = value

    def _numbers(self) -> dict[str, float]:
        return {
            f"{PREFIX}{index}.{name}": value.item() if isinstance(value, Tensor) else value
            for index, group in enumerate(self._optimizer.param_groups)
            for name, value in group.items()
            if name not in NOT_KEPT
            and (
                isinstance(value, int | float) or (isinstance(value, Tensor) and value.numel() == 1)
            )
        }
