"""Checks of the model: its layers, and what its passes do. All raise `SettingError`."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parameter import UninitializedParameter

from ..batches.structure import taken_apart
from ..settings.errors import SettingError


class CalledOnly(nn.Module):
    """A model as DDP and DataParallel wrap it: to be called, and without its attributes."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.module = model
        self.has_second_derivative = False
        """Whether a gradient of an output was itself to be differentiated."""

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        outputs = self.module(*inputs, **named_inputs)
        _, tensors = taken_apart(outputs)
        for tensor in tensors:
            if torch._C._functorch.is_functorch_wrapped_tensor(tensor):
                raise SettingError(
                    "model.py: the model is called by a function of torch.func, and DDP cannot be; "
                    "use torch.autograd.grad, or torch.func inside forward"
                )
            if tensor.requires_grad:
                tensor.register_hook(self._note)  # type: ignore[no-untyped-call]
        return outputs

    def _note(self, gradient: Tensor) -> None:
        self.has_second_derivative |= torch.is_grad_enabled()

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            raise AttributeError(
                f"under DDP the model can only be called, and has no {name!r}; let its forward "
                "compute what needs it"
            ) from None


@contextmanager
def backward_refused(model: nn.Module) -> Iterator[None]:
    """Refuse a backward pass of one's own inside, as for adversarial examples.

    It would add to the gradients of the step, and DDP would exchange them.
    """

    def refuse(parameter: Tensor) -> None:
        raise SettingError(
            "model.py: compute_loss calls backward(); take gradients with regard to inputs by "
            "torch.autograd.grad(loss, inputs), which leaves those of the weights alone"
        )

    trainable: list[Any] = [p for p in model.parameters() if p.requires_grad]
    handles = [parameter.register_post_accumulate_grad_hook(refuse) for parameter in trainable]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def check_parameters(model: nn.Module) -> None:
    """Check that each parameter has a shape: the optimizer is made before the first batch."""
    for name, parameter in model.named_parameters():
        if isinstance(parameter, UninitializedParameter):
            raise SettingError(
                f"model.py: {name} is of a lazy layer, which has no shape before the first batch; "
                "give the layer its size, or call the model once in make_model"
            )


def check_layers(model: nn.Module) -> None:
    """Check that no layer depends on the number of processes, or has other state than tensors."""
    for name, module in model.named_modules():
        if isinstance(module, nn.SyncBatchNorm):
            raise SettingError(
                f"model.py: {name} is a SyncBatchNorm, whose result depends on the number of "
                "processes; use BatchNorm, whose running statistics are kept alike on all ranks"
            )
        if "_orig_mod" in module._modules:
            raise SettingError(
                f"model.py: {name or 'the model'} was made by torch.compile(), which renames its "
                "weights; call .compile() of the module, or use --compile"
            )
        if isinstance(module, nn.Embedding | nn.EmbeddingBag) and module.max_norm is not None:
            raise SettingError(
                f"model.py: {name or 'the model'} has max_norm, by which a forward pass changes "
                "weights, on each rank those of its own micro-batches; normalize what it returns "
                "instead"
            )
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.momentum is None:
            raise SettingError(
                f"model.py: {name} is a BatchNorm with momentum None; use a number, such as 0.1"
            )
    for name, value in model.state_dict().items():
        if not isinstance(value, Tensor):
            raise SettingError(
                f"model.py: {name} of the state is a {type(value).__name__}; checkpoints hold "
                "tensors: keep it as a buffer, instead of get_extra_state"
            )


def check_names(before: Collection[str], model: nn.Module) -> None:
    """Check that a forward pass has given the weights no other names."""
    if new := [name for name in model.state_dict() if name not in before]:
        raise SettingError(
            f"model.py: the forward pass registers {', '.join(new[:3])}, which a new model does "
            "not have, so that it could not load the weights; register it in __init__, or with "
            "persistent=False"
        )


def put_in_training_mode(model: nn.Module) -> tuple[str, ...]:
    """Put a model in training mode; return the outermost modules that were in evaluation mode."""
    found: list[str] = []
    for name, module in model.named_modules():
        is_inside = any(name.startswith(f"{outer}.") for outer in found)
        if model.training and not module.training and not is_inside:
            found.append(name)
    model.train()
    return tuple(name for name in found if model.get_submodule(name).training)


def check_graph(loss: Tensor) -> None:
    """Check that DDP can compute the gradient."""
    found, left = set(), [loss.grad_fn]
    while left:
        node = left.pop()
        if node is None or node in found:
            continue
        if node.name() == "CheckpointFunctionBackward":
            raise SettingError(
                "model.py: torch.utils.checkpoint is called with use_reentrant=True, and DDP would "
                "take a gradient twice; use use_reentrant=False, which gives the same bits"
            )
        found.add(node)
        left += [following for following, _ in node.next_functions]


def check_gradients(parameters: Mapping[str, Tensor]) -> list[str]:
    """Check that some of the parameters have a gradient, a dense one; return which have none."""
    gradients = {name: parameter.grad for name, parameter in parameters.items()}
    without = [name for name, gradient in gradients.items() if gradient is None]
    if len(without) == len(gradients):
        raise SettingError(
            "model.py: compute_loss gives no parameter a gradient; do not detach its result"
        )
    for name, gradient in gradients.items():
        if gradient is not None and gradient.layout != torch.strided:
            raise SettingError(
                f"model.py: {name} gets a sparse gradient, which can be neither clipped nor summed "
                "in order; make its layer with sparse=False"
            )
    return without
