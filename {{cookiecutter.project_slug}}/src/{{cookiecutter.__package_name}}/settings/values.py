"""Nested values, of settings and of batches: in lists, sets, dictionaries and dataclasses."""

from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any


def map_leaves(function: Callable[..., Any], *values: Any) -> Any:
    """Apply `function` to what is at the same place in values of one structure."""
    first = values[0]
    if callable(getattr(first, "to", None)):
        # A tensor, or a container that knows better, such as a PackedSequence.
        return function(*values)
    if is_nested(first):
        names = fields_of(first)
        parts = {n: map_leaves(function, *(getattr(value, n) for value in values)) for n in names}
        return replace(first, **parts)
    if isinstance(first, Mapping):
        return {key: map_leaves(function, *(value[key] for value in values)) for key in first}
    if isinstance(first, tuple | list | set | frozenset):
        items = [map_leaves(function, *some) for some in zip(*values, strict=True)]
        return type(first)(*items) if hasattr(first, "_fields") else type(first)(items)
    return function(*values)


def leaves_of(value: Any) -> list[Any]:
    """Return the innermost values, in their order."""
    found: list[Any] = []

    def note(leaf: Any) -> Any:
        found.append(leaf)
        return leaf

    map_leaves(note, value)
    return found


def as_plain(value: Any) -> Any:
    """Return a setting as YAML and JSON can hold it, and as flags give it."""
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
    """Return whether a value is a dataclass."""
    return is_dataclass(value) and not isinstance(value, type)


def fields_of(value: Any) -> dict[str, Any]:
    """Return the fields of a dataclass by name."""
    return {field.name: getattr(value, field.name) for field in fields(value) if field.init}
