"""The settings of a run as `config.yaml`, and as flags on top of such a file."""

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, get_args, get_type_hints

import yaml

from .command_line import parse_command_line
from .errors import SettingError
from .run_config import NOT_SAVED, RunConfig

CONFIG_FILE = "config.yaml"
DESCRIPTION = "--config FILE reads the settings in a run's config.yaml; other flags override it."

Config = TypeVar("Config", bound=RunConfig)
READ_TEXT = partial(Path.read_text, encoding="utf-8")


def as_yaml(config: RunConfig) -> str:
    """Return the settings as YAML, for `--config FILE`."""
    return yaml.safe_dump(config.saved(), sort_keys=False)


def load_config(
    settings: type[Config], file: Path, read: Callable[[Path], str] = READ_TEXT
) -> Config:
    """Return the settings in a `config.yaml`; those not in it have their defaults.

    Args:
        settings: Their class.
        file: The file.
        read: What reads it.

    Raises:
        SettingError: the file cannot be read, or has an unknown setting or a wrong value.
    """
    try:
        values = yaml.safe_load(read(file))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        reason = " ".join(str(error).split())
        raise SettingError(f"config {file} cannot be read: {reason}") from error
    known = [field.name for field in fields(settings) if field.name not in NOT_SAVED]
    if not isinstance(values, dict):
        raise SettingError(f"config {file} must be 'name: value' lines, as in a run's config.yaml")
    if unknown := [str(name) for name in values if name not in known]:
        raise SettingError(f"config {file} has unknown settings: {', '.join(unknown)}; see --help")
    try:
        return _parsed(settings, values)
    except SettingError as error:
        raise SettingError(f"config {file}: {error}") from error


def _parsed(settings: type[Config], values: Mapping[str, Any]) -> Config:
    """Return settings from plain values, by the parser of the command line and with its checks."""
    return parse_command_line(settings, _flags(settings, values))


def _flags(settings: type, values: Mapping[str, Any], outer: str = "") -> list[str]:
    """Return the flags that set fields of a dataclass, which may be nested in another."""
    kinds = get_type_hints(settings)
    flags = []
    for name, value in values.items():
        flag, kind = outer + name.replace("_", "-"), kinds.get(name)
        if isinstance(value, dict) and is_dataclass(kind):
            assert isinstance(kind, type)
            flags += _flags(kind, value, f"{flag}.")
        elif isinstance(value, dict):
            flags += [f"--{flag}", *(str(item) for pair in value.items() for item in pair)]
        elif isinstance(value, list):
            flags += [f"--{flag}", *map(str, value)]
        elif kind is bool and isinstance(value, bool):
            flags.append(f"--{flag}" if value else f"--{outer}no-{flag.removeprefix(outer)}")
        else:
            # YAML reads `no`, a value of mixed_precision, as false.
            is_no = value is False and bool not in get_args(kind)
            # The sign: a text may begin with a dash.
            flags.append(f"--{flag}={'no' if is_no else value}")
    return flags


def check_readable(config: RunConfig) -> None:
    """Check that `config.yaml` gives the same settings again, as `evaluate` and a resume need.

    Raises:
        SettingError: a setting of `config.py` has a type that it does not hold.
    """
    saved = config.saved()
    names = _lost(type(config), saved)
    if not names:
        return
    if len(names) == len(saved):  # One of them cannot be read.
        names = [name for name, value in saved.items() if _lost(type(config), {name: value})]
    shown = ", ".join(f"{name} ({saved[name]!r})" for name in names)
    raise SettingError(
        f"config.py: config.yaml cannot hold {shown} and give it back; use numbers, texts, paths, "
        "enums, lists or dictionaries of them, or a dataclass that has defaults"
    )


def _lost(settings: type[RunConfig], values: dict[str, Any]) -> list[str]:
    """Return which values are others when they are read again; all, if they cannot be read."""
    try:
        read = _parsed(settings, yaml.safe_load(yaml.safe_dump(values))).saved()
    except (SettingError, yaml.YAMLError):
        return list(values)
    return [name for name, value in values.items() if read[name] != value]


def parse_config(
    settings: type[Config],
    argv: Sequence[str] | None = None,
    read: Callable[[Path], str] = READ_TEXT,
    program: str | None = None,
) -> Config:
    """Return the settings from flags; `--config FILE` gives defaults that flags override.

    Args:
        settings: Their class.
        argv: The flags; None is those of the command line.
        read: What reads the file.
        program: Name of the module for `--help`; None is the one that `python -m` started.

    Raises:
        SettingError: a flag, the file or a value is wrong.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    default = settings()
    for position, argument in enumerate(arguments):
        flag, has_value, file = argument.partition("=")
        if flag == "--config":
            if not has_value and position + 1 == len(arguments):
                raise SettingError("--config needs a file; try --config runs/NAME/config.yaml")
            file = file if has_value else arguments[position + 1]
            del arguments[position : position + (1 if has_value else 2)]
            flags = {text.partition("=")[0].replace("_", "-") for text in arguments}
            if "--config" in flags:
                raise SettingError("--config was given twice; give one file, and flags beside it")
            default = load_config(settings, Path(file), read)
            if "--epochs" in flags:
                default = replace(default, max_steps=None)  # It would override the flag.
            break
    for flag, following in pairwise([*arguments, "--"]):
        value = getattr(default, flag.removeprefix("--").replace("-", "_"), None)
        is_empty = flag.startswith("--") and value in ((), [], {}, set())
        if is_empty and following.startswith("--"):
            # As of a variable of the shell that is not set; it would have no effect.
            raise SettingError(f"{flag} got no value; give one, or leave it out")
    return parse_command_line(
        settings, arguments, default=default, description=DESCRIPTION, program=program
    )
