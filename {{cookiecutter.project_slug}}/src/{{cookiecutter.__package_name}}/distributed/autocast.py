"""Mixed precision of the forward pass, as Accelerate has it: only the model's own."""

from typing import Any

import torch
from accelerate.utils import convert_to_fp32
from torch import nn

from ..settings.run_config import Precision

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


class AutocastForward(nn.Module):
    """Runs a module's forward pass under autocast, and returns its outputs in float32.

    The loss is computed outside: under autocast on a GPU, `cross_entropy` takes the logarithms in
    half precision. Inside DataParallel, because its threads do not inherit the caller's autocast.
    """

    def __init__(self, module: nn.Module, mixed_precision: Precision) -> None:
        super().__init__()
        self.module = module
        self.dtype = DTYPES.get(mixed_precision)

    def forward(self, *inputs: Any, **named_inputs: Any) -> Any:
        if self.dtype is None:
            return self.module(*inputs, **named_inputs)
        device_type = next(self.module.parameters()).device.type
        with torch.autocast(device_type, dtype=self.dtype):
            outputs = self.module(*inputs, **named_inputs)
        return convert_to_fp32(outputs)
