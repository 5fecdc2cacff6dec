"""Which modules FSDP2 has sharded, and what this rank has of them."""

import sys
from typing import Any

from torch import Tensor, nn


def sharded_modules(model: nn.Module) -> list[Any]:
    """Return the modules of a model that FSDP2 has sharded, itself among them."""
    if "torch.distributed.fsdp" not in sys.modules:
        return []  # Nothing is sharded; it takes half a second to import.
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]


def local_part(parameter: Any) -> Tensor:
    """Return the part of a parameter that is on this rank; shares its memory."""
    local: Tensor = parameter.detach()
    return local.to_local() if hasattr(local, "to_local") else local
