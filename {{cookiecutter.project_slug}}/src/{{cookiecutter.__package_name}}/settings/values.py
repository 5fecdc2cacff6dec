"""Values of settings, which may be nested: lists, sets, dictionaries and dataclasses of values."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any


def map_values(function: Callable[[Any], Any], value: Any) -> Any:
    """Return a value of the same structure, with `function` applied to each innermost value."""
    if is_nested(value):
        changed = {name: map_values(function, inner) for name, inner in fields_of(value).items()}
        return replace(value, **changed)
    if isinstance(value, Mapping):
        return {key: map_values(function, inner) for key, inner in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        inner_values = [map_values(function, inner) for inner in value]
        is_named = hasattr(value, "_fields")
        return type(value)(*inner_values) if is_named else type(value)(inner_values)
    return function(value)


def as_plain(value: Any) -> Any:
    """Return a value as YAML and JSON can hold it, and as flags give it."""
    if is_nested(value):
        return {name: as_plain(inner) for name, inner in fields_of(value).items()}
    if isinstance(value, Mapping):
        return {str(as_plain(key)): as_plain(inner) for key, inner in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(as_plain, value), key=str)
    if isinstance(value, tuple | list):
        return [as_plain(inner) for inner in value]
    if isinstance(value, Enum):
        return value.name
    return str(value) if isinstance(value, Path) else value


def is_nested(value: Any) -> bool:
    """Return whether a value is a dataclass: settings within a setting."""
    return is_dataclass(value) and not isinstance(value, type)


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name."""
    return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
