"""A dataclass as command-line flags; each mistake is an error of one line."""

import contextlib
import io
import re
import sys
from collections.abc import Sequence
from typing import Any, TypeVar

import tyro

from .errors import SettingError

Settings = TypeVar("Settings")


def parse_command_line(
    settings: type[Settings],
    argv: Sequence[str] | None = None,
    *,
    default: Settings | Any = tyro.MISSING_NONPROP,
    description: str = "",
    program: str | None = None,
) -> Settings:
    """Return the dataclass `settings`, filled from flags by tyro.

    Raises:
        SettingError: an unknown flag, or a value of the wrong type.
    """
    main_spec = sys.modules["__main__"].__spec__
    program = program or (main_spec.name if main_spec else None)
    errors = io.StringIO()
    try:
        with contextlib.redirect_stderr(errors):
            return tyro.cli(
                settings,
                args=argv,
                prog=f"python -m {program}" if program else None,
                description=f"{settings.__doc__}\n\n{description}".strip(),
                default=default,
            )
    except SystemExit as stop:
        if not stop.code:
            raise
        raise SettingError(_in_one_line(errors.getvalue())) from None


def _in_one_line(box: str) -> str:
    """Return tyro's boxed message as one line: ranks would interleave the lines of a box."""
    lines = [line for line in box.splitlines() if line.startswith("│")]
    # On an ASCII terminal tyro prints a title and a rule instead of a box.
    lines = lines or box.strip().splitlines()[2:]
    message, *advice = re.split("[─-]{3,}", " ".join(line.strip("│ ") for line in lines))
    # A suggested flag is followed by the name of its type, a mistyped one is not.
    flags = re.findall(r"(--[a-z-]+)(?=[, ] *[A-Z{-])", " ".join(advice[:-1]))
    is_unknown = message.startswith("Unrecognized")
    nearest = f"; did you mean {' or '.join(flags)}?" if flags and is_unknown else ""
    message = re.sub(r"^Error parsing \w+: ", "", message.strip(" ."))
    return message + (nearest or ("" if "; try " in message else "; see --help"))
