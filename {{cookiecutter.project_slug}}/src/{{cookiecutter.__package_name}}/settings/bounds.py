"""Bounds of a setting, written beside its field: `epochs: Annotated[int, Ge(1)] = 40`."""

import math
from dataclasses import fields
from typing import Any, get_type_hints

from annotated_types import Ge, Lt

from .errors import SettingError


def check_bounds(config: Any) -> None:
    """Check each field of a dataclass against its `Ge` and `Lt`; None is always allowed.

    Raises:
        SettingError: a number is out of bounds, infinite or NaN.
    """
    hints = get_type_hints(type(config), include_extras=True)
    for field in fields(config):
        value, flag = getattr(config, field.name), "--" + field.name.replace("_", "-")
        for bound in getattr(hints[field.name], "__metadata__", ()):
            if value is None or not isinstance(bound, Ge | Lt):
                continue
            limit: Any = bound.ge if isinstance(bound, Ge) else bound.lt
            is_inside = value >= limit if isinstance(bound, Ge) else value < limit
            if not is_inside or math.isinf(value):
                rule = f"at least {limit}" if isinstance(bound, Ge) else f"less than {limit}"
                fallback = limit if field.default is None else field.default
                raise SettingError(
                    f"{field.name} ({value}) must be a finite number, {rule}; try {flag} {fallback}"
                )
