"""Which modules FSDP2 has sharded."""

import sys
from typing import Any

from torch import nn


def sharded_modules(model: nn.Module) -> list[Any]:
    """Return the modules of a model that FSDP2 has sharded, itself among them."""
    if "torch.distributed.fsdp" not in sys.modules:
        return []  # Nothing is sharded; it takes half a second to import.
    from torch.distributed.fsdp import FSDPModule

    return [module for module in model.modules() if isinstance(module, FSDPModule)]
