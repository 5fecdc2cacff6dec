"""Bounds of a setting, written beside its field: `epochs: Annotated[int, Ge(1)] = 40`."""

import math
from dataclasses import fields
from typing import Any, get_type_hints

from annotated_types import Ge, Lt

from .errors import SettingError
from .values import is_nested


def check_bounds(config: Any, outer: str = "") -> None:
    """Check each field of a dataclass against its `Ge` and `Lt`; None is always allowed.

    Args:
        config: The dataclass.
        outer: Where it is nested in another: the name of its field, and a dot.

    Raises:
        SettingError: a number is out of bounds, infinite or NaN.
    """
    for field in fields(config):
        name, value = outer + field.name, getattr(config, field.name)
        if is_nested(value):
            check_bounds(value, f"{name}.")
        for bound in _bounds_of(type(config), field.name):
            if value is None:
                continue
            limit: Any = bound.ge if isinstance(bound, Ge) else bound.lt
            is_inside = value >= limit if isinstance(bound, Ge) else value < limit
            if not is_inside or value in (math.inf, -math.inf):
                rule = f"at least {limit}" if isinstance(bound, Ge) else f"less than {limit}"
                fallback = limit if field.default is None else field.default
                raise SettingError(
                    f"{name} ({value}) must be a finite number, {rule}; try "
                    f"--{name.replace('_', '-')} {fallback}"
                )


def _bounds_of(settings: type, name: str) -> tuple[Ge | Lt, ...]:
    """Return the bounds of a field; those of a base class hold where the field is repeated."""
    hints = [get_type_hints(base, include_extras=True).get(name) for base in settings.__mro__[:-1]]
    metadata = [bound for hint in hints for bound in getattr(hint, "__metadata__", ())]
    return tuple(bound for bound in metadata if isinstance(bound, Ge | Lt))
