"""The rendezvous: all processes reach one store at MASTER_ADDR, within a limit of its own.

The process group would wait for ten minutes, and then print what its C++ functions were.
"""

import os
import socket
import sys
import time
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import torch.distributed as dist

from ..settings.errors import SettingError, in_one_line, is_first_of_machine

Store = Any  # A store of torch.distributed, which has no public type.
# After so long without the others, it is said what is waited for.
NOTICE_SECONDS = 5.0
RETRY_SECONDS, TRY_SECONDS = 0.5, 5.0
STORE_TIMEOUT = timedelta(seconds=20)
PORT_FLAGS = "torchrun --master-port, accelerate launch --main_process_port, or MASTER_PORT"
ADDRESS_FLAGS = "torchrun --master-addr, accelerate launch --main_process_ip, or MASTER_ADDR"


def connect(rank: int, world_size: int, seconds: float) -> Store:
    """Return the store of the job, which rank 0 or its launcher serves at MASTER_ADDR.

    Args:
        rank: Of this process.
        world_size: Of the job.
        seconds: To wait for the server.

    Raises:
        SettingError: nobody answers there within `seconds`, or rank 0 cannot listen there.
    """
    host, port = _address()
    # torchrun and accelerate launch serve the store themselves.
    is_server = rank == 0 and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    if not is_server:
        _wait_for_server(host, port, seconds)
    try:
        store = dist.TCPStore(  # type: ignore[attr-defined]
            "localhost" if is_server else host,
            port,
            world_size,
            is_server,
            timeout=STORE_TIMEOUT,
            wait_for_workers=False,
            multi_tenant=True,  # The process group, which comes later, shares the server.
        )
    except RuntimeError as error:
        what = "cannot listen at" if is_server else "gets no answer of a store from"
        raise SettingError(
            f"rank {rank} {what} {host}:{port}: {in_one_line(error)[:200]}; another program may "
            f"use the port; give a free one to all ({PORT_FLAGS})"
        ) from error
    if is_server:
        _check_own_address(host, port)
    return store


def _address() -> tuple[str, int]:
    host, port = (os.environ.get(name, "") for name in ("MASTER_ADDR", "MASTER_PORT"))
    if not host or not port:
        missing = "MASTER_PORT" if host else "MASTER_ADDR"
        raise SettingError(
            f"WORLD_SIZE is {os.environ['WORLD_SIZE']} and {missing} is not set; start with "
            "torchrun, or unset WORLD_SIZE"
        )
    if not port.isdecimal() or not 0 < int(port) < 2**16:
        raise SettingError(f"MASTER_PORT ({port}) must be a number from 1 to 65535")
    return host, int(port)


def _check_own_address(host: str, port: int) -> None:
    """Check that rank 0, which listens, can be reached at MASTER_ADDR."""
    try:
        socket.create_connection((host, port), timeout=TRY_SECONDS).close()
    except OSError as error:
        raise SettingError(
            f"rank 0 runs on {socket.gethostname()} and does not answer at {host}:{port} "
            f"({reason_of(error)}); give a name or an address of this machine ({ADDRESS_FLAGS})"
        ) from error


def _wait_for_server(host: str, port: int, seconds: float) -> None:
    """Wait until somebody listens.

    Raises:
        SettingError: nobody does within `seconds`.
    """
    start, has_said = time.monotonic(), False
    while True:
        left = start + seconds - time.monotonic()
        try:
            # Not by the store: it would print a stack trace for each failed try.
            socket.create_connection((host, port), timeout=max(0.1, min(TRY_SECONDS, left))).close()
        except OSError as error:
            reason = reason_of(error)
        else:
            return
        if time.monotonic() >= start + seconds:
            raise SettingError(
                f"nobody answers at {host}:{port} within {seconds:.0f} s ({reason}); "
                f"{_remedy(reason)}"
            )
        if not has_said and time.monotonic() >= start + NOTICE_SECONDS:
            has_said = True
            say(f"waiting for {host}:{port} ({reason}), for {seconds:.0f} s at most")
        time.sleep(RETRY_SECONDS)


def reason_of(error: OSError) -> str:
    """Return in a few words why a connection failed."""
    if isinstance(error, socket.gaierror):
        return "the name cannot be resolved"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return "no answer" if isinstance(error, TimeoutError) else error.strerror or str(error)


def _remedy(reason: str) -> str:
    remedies: Mapping[str, str] = {
        "the name cannot be resolved": f"write the name in /etc/hosts, or give another "
        f"({ADDRESS_FLAGS})",
        "connection refused": "start rank 0 on that machine, or look at what it printed; or give "
        f"the port that it uses ({PORT_FLAGS})",
    }
    other = f"give the address of the machine of rank 0 ({ADDRESS_FLAGS}), and open its port"
    return remedies.get(reason, other)


def say(line: str) -> None:
    """Print a line to stderr, on one rank of each machine."""
    if is_first_of_machine():
        print(f"{socket.gethostname()}: {line}", file=sys.stderr, flush=True)
