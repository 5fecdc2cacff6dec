"""Whether machines reach each other at the addresses and ports that gloo will take."""

import os
import socket
import time
from collections.abc import Callable

from ..settings.errors import SettingError
from .rendezvous import Store, reason_of

INTERFACE = "set GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME to its network interface, such as eth0"


def check_reachable(
    store: Store, rank: int, hosts: list[str], seconds: float, raise_error: Callable[[], None]
) -> None:
    """Check that a machine reaches the next one; the first rank of each machine calls it.

    Args:
        store: That all ranks reach.
        rank: Of this process, the first of its machine.
        hosts: Machine of each rank, at least two.
        seconds: To wait for an answer.
        raise_error: Raises the error of another rank.

    Raises:
        SettingError: the name of this machine is a loopback address, or a machine does not answer.
    """
    first_ranks = list({host: hosts.index(host) for host in hosts}.values())
    with socket.create_server(("", 0), backlog=len(hosts)) as server:
        if not os.environ.get("GLOO_SOCKET_IFNAME"):
            store.set(f"address/{rank}", f"{_own_address()} {server.getsockname()[1]}")
        else:
            store.set(f"address/{rank}", "")  # Which address that interface has is gloo's to find.
        other = first_ranks[(first_ranks.index(rank) + 1) % len(first_ranks)]
        deadline = time.monotonic() + seconds
        while not store.check([f"address/{other}"]) and time.monotonic() < deadline:
            raise_error()
            time.sleep(0.1)
        address = store.get(f"address/{other}").decode()
        if address:
            host, port = address.split()
            try:
                socket.create_connection((host, int(port)), timeout=seconds).close()
            except OSError as error:
                raise SettingError(
                    f"rank {rank} on {hosts[rank]} does not reach rank {other} on {hosts[other]} "
                    f"at {host}, port {port} ({reason_of(error)}); open all ports between the "
                    f"machines, or {INTERFACE}"
                ) from error
        # Its own server must answer until all have tried.
        store.add("reached", 1)
        while store.add("reached", 0) < len(first_ranks) and time.monotonic() < deadline:
            raise_error()
            time.sleep(0.1)


def _own_address() -> str:
    """Return the address that the name of this machine stands for, which gloo tells the others."""
    name = socket.gethostname()
    try:
        address = str(socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)[0][4][0])
        problem = f"is {address}, this machine itself" if _is_loopback(address) else ""
    except OSError:
        address, problem = "", "cannot be resolved"
    if problem:
        raise SettingError(
            f"the name {name} of this machine {problem}, so that the others could not reach it; "
            f"give its address in /etc/hosts, or {INTERFACE}"
        )
    return address


def _is_loopback(address: str) -> bool:
    return address.startswith("127.") or address == "::1"
