"""Standard output and error that never stop a run: what cannot be written is dropped.

A reader that is gone (`| head`, a `tee` that Ctrl-C ended), a full disk or a closed descriptor must
not keep a run from training, saving and ending as it would.
"""

import io
import os
import select
import sys

STDERR = 2


class DroppingOutput(io.RawIOBase):
    """A file descriptor to write to, from which nobody may read any more."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.error: OSError | None = None
        """Why output was dropped first, unless its reader did not want more."""

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return os.isatty(self._descriptor)

    def write(self, data: object) -> int:
        view = memoryview(data)  # type: ignore[arg-type]
        error = write_or_drop(self._descriptor, bytes(view))
        if not isinstance(error, BrokenPipeError):
            self.error = self.error or error
        return view.nbytes


def write_or_drop(descriptor: int, data: bytes) -> OSError | None:
    """Write all of `data`; drop the rest and return why if that fails. Safe in a signal handler."""
    while data:
        try:
            data = data[os.write(descriptor, data) :]
        except BlockingIOError:  # A full pipe that another program has made non-blocking.
            select.select([], [descriptor], [])
        except OSError as error:
            return error
    return None


def why_stdout_was_dropped() -> OSError | None:
    """Flush `sys.stdout`, and return why something could not be written; None if all was.

    A reader that wanted no more (`| head`) is no reason.
    """
    sys.stdout.flush()
    output = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return output.error if isinstance(output, DroppingOutput) else None


def use_dropping_output() -> None:
    """Let `sys.stdout` and `sys.stderr` drop what cannot be written, and escape what has no sign.

    Closed descriptors are opened on the null device first: the next file that is opened would take
    their number, and get the messages.
    """
    for descriptor in range(STDERR + 1):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    for name, descriptor in (("stdout", 1), ("stderr", STDERR)):
        stream = getattr(sys, name)
        if stream is not None and not _is_of(stream, descriptor):
            continue  # Somebody captures it.
        encoding = getattr(stream, "encoding", None) or "utf-8"
        output = io.TextIOWrapper(
            io.BufferedWriter(DroppingOutput(descriptor)),
            encoding=encoding,
            errors="backslashreplace",
            line_buffering=True,
        )
        setattr(sys, name, output)


def _is_of(stream: object, descriptor: int) -> bool:
    try:
        return bool(stream.fileno() == descriptor)  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
