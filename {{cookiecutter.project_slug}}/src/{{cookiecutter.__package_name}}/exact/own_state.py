"""What a forward pass changes by itself, which makes results depend on the placement."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from hashlib import blake2b

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..batches.structure import taken_apart
from ..distributed.collectives import gather_from_ranks, is_distributed
from ..distributed.devices import Devices
from ..distributed.shards import local_part

# Those that PyTorch gives every module; all others are the user's, or their layer's.
ATTRIBUTES_OF_ALL = vars(nn.Module()).keys()


class OwnChanges:
    """Finds what forward passes change: what differs between ranks, and frozen parameters.

    Args:
        model: The model, before the first step.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.frozen = self._sums_of_frozen()

    def warn(self, devices: Devices) -> None:
        """Name them, on rank 0; all ranks call it, after a few steps."""
        sums = self._sums_of_frozen()
        names = [name for name, found in sums.items() if found != self.frozen[name]]
        names += differing_state(self.model, has_shards=devices.strategy == "fsdp2")
        if names and devices.is_main_process:
            shown = ", ".join(list(dict.fromkeys(names))[:5])
            print(
                f"warning: model.py: the forward pass changes {shown}, on each rank "
                "by its own micro-batches; results depend on the number of processes",
                file=sys.stderr,
            )

    def _sums_of_frozen(self) -> dict[str, Tensor]:
        """Return those of frozen parameters, such as a teacher's; the optimizer changes others."""
        parameters = self.model.named_parameters()
        return _sums({name: p for name, p in parameters if not p.requires_grad})


def _sums(parameters: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a checksum of the bits of each parameter; under FSDP2, of this rank's shard."""
    parts = {name: local_part(parameter) for name, parameter in parameters.items()}
    # Subclasses, as of quantized weights, may have no bytes to look at.
    return {name: _sum_of_bits(part) for name, part in parts.items() if type(part) is Tensor}


def _sum_of_bits(tensor: Tensor) -> Tensor:
    """Return a sum that another value changes; it wraps."""
    content = tensor.flatten().view(torch.uint8)
    if len(content) % 8 == 0 and content.storage_offset() % 8 == 0:
        content = content.view(torch.int64)  # The sum of bytes takes a hundred times as long.
    return content.sum()


def differing_state(model: nn.Module, *, has_shards: bool) -> list[str]:
    """Return the names of buffers and whole weights that differ between ranks; all ranks call it.

    DDP gives all ranks the same gradients, not the same weights.
    """
    if not is_distributed():
        return []
    weights = {} if has_shards else _digests_of_weights(model)
    # Not by element: a buffer may have another shape on another rank, such as a mask that grows.
    ranks = gather_from_ranks({**_digests(model), **weights})
    names = {name: None for rank in ranks for name in rank}
    return [name for name in names if any(rank.get(name) != ranks[0].get(name) for rank in ranks)]


def _digest(tensor: Tensor) -> str:
    """Return a digest of type, shape and values; of a subclass, such as quantized numbers, none."""
    if type(tensor) not in (Tensor, nn.Buffer) or tensor.layout != torch.strided:
        return ""
    content = tensor.detach().cpu().flatten().view(torch.uint8).numpy().tobytes()
    return f"{tensor.dtype} {tuple(tensor.shape)} {blake2b(content, digest_size=8).hexdigest()}"


def own_state(model: nn.Module) -> dict[str, str]:
    """Return a digest of weights, of attributes, and of buffers but BatchNorm's.

    An attribute may be a counter, a temperature, a queue, or a generator of random numbers. One
    that is None counts as not set.
    """
    attributes = {
        f"{name}.{key}".lstrip("."): _digest_of_all(value)
        for name, module in model.named_modules()
        for key, value in _attributes(module).items()
        if value is not None
    }
    return {**_digests_of_weights(model), **_digests(model), **attributes}


def _digests_of_weights(model: nn.Module) -> dict[str, str]:
    sums = _sums(dict(model.named_parameters()))
    return {name: str(int(total)) for name, total in sums.items()}


def changed_state(
    model: nn.Module, before: Mapping[str, str], repeat: Callable[[], object]
) -> list[str]:
    """Return the state that a forward pass has changed.

    What it has set first may be a cache: a repeated pass changes only state that is carried on.
    """
    after = own_state(model)
    new = {name: digest for name, digest in after.items() if name not in before}
    if new:
        repeat()
        after = own_state(model)
    return [name for name, digest in {**before, **new}.items() if after.get(name) != digest]


def _attributes(module: nn.Module) -> dict[str, object]:
    """Return what a module and its classes have beside functions and what every module has."""
    classes = [c for c in type(module).__mro__ if issubclass(c, nn.Module) and c is not nn.Module]
    return {
        key: value
        for namespace in (*map(vars, reversed(classes)), vars(module))
        for key, value in namespace.items()
        if key not in ATTRIBUTES_OF_ALL and key[:2] != "__" and not hasattr(value, "__get__")
    }


def _digest_of_all(value: object) -> str:
    """Return a digest of an object; what cannot be pickled is not looked at."""
    rest, tensors = taken_apart(value)
    return " ".join([blake2b(rest, digest_size=8).hexdigest(), *map(_digest, tensors)])


@contextmanager
def state_restored(model: nn.Module) -> Iterator[None]:
    """Restore buffers and attributes of the modules afterwards, and remove those set inside."""
    before = [(module, dict(vars(module)), dict(module._buffers)) for module in model.modules()]
    values = {id(buffer): buffer.clone() for buffer in model.buffers()}
    yield
    for module, attributes, buffers in before:
        for name in module._buffers.keys() - buffers.keys():
            delattr(module, name)
        for name, buffer in buffers.items():
            if module._buffers.get(name) is not buffer:
                setattr(module, name, buffer)
            if buffer is not None:
                buffer.copy_(values[id(buffer)])
        for name in vars(module).keys() - attributes.keys():
            del vars(module)[name]
        vars(module).update(attributes)


def _digests(model: nn.Module) -> dict[str, str]:
    """Return those of buffers but BatchNorm's, which `BatchNormSum` keeps alike on all ranks."""
    return {
        name: _digest(buffer)
        for name, buffer in model.named_buffers()
        if not isinstance(model.get_submodule(name.rpartition(".")[0]), _BatchNorm)
    }
