"""The order in which forward passes call the modules of a model."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn
from torch.nn.modules.module import (
    register_module_forward_hook,
    register_module_forward_pre_hook,
)

END = "the end of the model"


@contextmanager
def calls_noted(model: nn.Module, note: Callable[[str], None]) -> Iterator[None]:
    """Inside, call `note` before each module of the model is called, and at the model's end.

    Its argument is the module's name, or `END`. Passes in evaluation mode do not count, nor does
    what activation checkpoints compute again.
    """
    names = {module: name for name, module in model.named_modules()}
    is_inside = False

    def before(module: nn.Module, inputs: Any) -> None:
        nonlocal is_inside
        is_inside |= module is model and model.training
        if is_inside and module in names:
            note(names[module])

    def after(module: nn.Module, inputs: Any, outputs: Any) -> None:
        nonlocal is_inside
        if is_inside and module is model:
            is_inside = False
            note(END)

    # Those of all modules come before those of FSDP2, which gathers the weights.
    handles = register_module_forward_pre_hook(before), register_module_forward_hook(after)
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
