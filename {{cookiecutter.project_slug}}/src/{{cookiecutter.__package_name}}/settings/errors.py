"""Errors that a user can act on, printed as one line instead of a traceback."""

import contextlib
import os
import socket
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from .output import use_dropping_output, why_stdout_was_dropped


class SettingError(ValueError):
    """A setting, a flag or the launch command is wrong; the message says what to type instead."""


class RunError(RuntimeError):
    """The run failed after it had started; checkpoints written before stay valid."""


def in_one_line(error: BaseException) -> str:
    """Return the class and the message of an error of another package or of the user."""
    return " ".join(f"{type(error).__name__}: {error}".split())


def nondeterministic_operation(error: BaseException) -> str | None:
    """Return advice if an error is that of an operation without a deterministic kernel.

    PyTorch raises it in exact runs, with the name of the operation.
    """
    operation, phrase, _ = str(error).partition(" does not have a deterministic implementation")
    if not phrase:
        return None
    return (
        f"{operation} has no deterministic kernel on this device, which exact sums need; use "
        "another operation, or --no-exact"
    )


def refused_by_fsdp2(error: BaseException) -> str | None:
    """Return advice if FSDP2 cannot shard the model, or the optimizer not step on its shards."""
    codes = [frame.f_code for frame, _ in traceback.walk_tb(error.__traceback__)]
    files = [Path(code.co_filename).as_posix() for code in codes]
    packages = ("/torch/optim/", "/torch/distributed/tensor/")
    if any(code.co_name == "fully_shard" for code in codes):
        refused = "model.py: FSDP2 cannot shard this model"
    elif "storage of size 0" in str(error):
        refused = "model.py: the loss needs weights after FSDP2 has freed them, as a gradient does"
    elif all(any(package in file for file in files) for package in packages):
        refused = "optimizer.py: this optimizer cannot step on the sharded parameters of FSDP2"
    else:
        return None
    return f"{refused} ({in_one_line(error)[:200]}); change it, or use DDP"


@contextlib.contextmanager
def errors_in_one_line() -> Iterator[None]:
    """Print an error that the user can act on as one line for each machine, and exit.

    Exit codes: 2 for a `SettingError`, and for an operation, model or optimizer that the strategy
    cannot use; 1 for a `RunError`; 130 for Ctrl-C, or for a stop signal that was repeated.
    """
    use_dropping_output()
    try:
        yield
    except (SettingError, RunError) as error:
        _print_once(f"error: {error}")
        raise SystemExit(2 if isinstance(error, SettingError) else 1) from error
    except Exception as error:
        advice = nondeterministic_operation(error) or refused_by_fsdp2(error)
        if advice is None:
            raise
        _print_once(f"error: {advice}")
        raise SystemExit(2) from error
    except KeyboardInterrupt:
        _print_once("interrupted; the latest complete checkpoint is kept")
        # Wait neither for the thread that writes a checkpoint nor for ranks that have exited.
        os._exit(130)


def check_printed() -> None:
    """Check that what was printed has been written: for programs whose result it is.

    Raises:
        RunError: it was dropped, because the disk is full for example.
    """
    error = why_stdout_was_dropped()
    if error is not None:
        raise RunError(f"standard output cannot be written: {error.strerror}; results are lost")


def is_first_of_machine() -> bool:
    """Return whether this is the rank that prints for its machine."""
    return os.environ.get("LOCAL_RANK", "0") in ("", "0")


def with_host(line: str) -> str:
    """Return a line with the name of this machine before it, in a job of several machines."""
    is_multi_node = os.environ.get("GROUP_WORLD_SIZE", "1") != "1"
    return f"{socket.gethostname()}: {line}" if is_multi_node else line


def _print_once(line: str) -> None:
    """Print a line on stderr, on one rank of each machine: the cause may be on one machine only."""
    sys.stdout.flush()
    if is_first_of_machine():
        print(with_host(line), file=sys.stderr, flush=True)
