"""No pictures."""

from typing import Any


def draw_pictures(*arguments: Any) -> None:
    """Draw nothing."""
