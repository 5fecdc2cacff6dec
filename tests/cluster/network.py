"""Machines on this one: network namespaces with names, addresses and a bridge of their own.

Each process of pytest-xdist has a network of its own, with the same names and addresses in it.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

NETWORK = os.environ.get("PYTEST_XDIST_WORKER", "main")
HUB, MACHINES = "hub", ("node-a", "node-b")
ADDRESSES = {HUB: "10.78.0.1", "node-a": "10.78.0.2", "node-b": "10.78.0.3"}
PROGRAMS = ("ip", "nsenter", "unshare", "mount", "hostname")
ON_NODE = Path(__file__).with_name("on_node.sh")
# What `ip netns` reads; the mark says that a namespace of this name is one of these.
SETTINGS, MARK = Path("/etc/netns"), "# Of tests/cluster; removed when it starts again.\n"
LOCK = Path("/run/lock") if Path("/run/lock").is_dir() else Path("/tmp")
# All that a network needs, in namespaces that end with the command.
PROBE = (
    "mount --bind /etc/hosts /etc/hosts && hostname probe && ip link add probe type bridge"
    " && ip link add one type veth peer name other"
)


class Busy(Exception):
    """Another run of these tests has the machines."""


def obstacle(programs: tuple[str, ...] = PROGRAMS) -> str | None:
    """Return why there can be no machines here; None if there can."""
    if sys.platform != "linux" or os.geteuid() != 0:
        return "it needs Linux, and root, for network namespaces"
    missing = [name for name in programs if shutil.which(name) is None]
    if missing:
        return f"not installed: {', '.join(missing)}"
    command = ["unshare", "--net", "--uts", "--mount", "sh", "-c", PROBE]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        return f"no network namespaces here: {' '.join(done.stderr.split())}"
    listed = subprocess.run(["ip", "netns", "list"], capture_output=True, text=True).stdout
    others = [line.split()[0] for line in listed.splitlines() if line.strip()]
    names = map(namespace, ADDRESSES)
    foreign = [name for name in names if name in others and not _is_ours(name)]
    return f"a network namespace of another owner is named {foreign[0]}" if foreign else None


def namespace(name: str, network: str = NETWORK) -> str:
    """Return the namespace of a machine; on_node.sh reads the machine's name from it."""
    return f"{name}.{network}"


def networks() -> set[str]:
    """Return the networks that there are, of runs that go on or were killed."""
    settings = filter(_is_ours, os.listdir(SETTINGS) if SETTINGS.exists() else [])
    return {name.partition(".")[2] for name in settings}


@contextmanager
def claim(network: str = NETWORK) -> Iterator[None]:
    """Let no other run touch the machines of a network.

    Raises:
        Busy: another run has them.
    """
    # The kernel releases it, however this process ends; children do not inherit it.
    with (LOCK / f"tests-cluster-{network}.lock").open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Busy("another run of these tests has the machines") from None
        yield


def take_down(network: str = NETWORK) -> None:
    """End all that runs on the machines of a network and remove them, whoever started them."""
    for name in (namespace(name, network) for name in ADDRESSES):
        if _is_ours(name):
            _kill_all_in(name)
            _run("ip", "netns", "delete", name, check=False)
            shutil.rmtree(SETTINGS / name)


def kill_all_on(name: str) -> None:
    """End everything that runs on a machine, as if its power had failed."""
    _kill_all_in(namespace(name))


@contextmanager
def cut_off(name: str) -> Iterator[None]:
    """Lose all packets to and from a machine, inside; nobody is told, and its network stays up."""
    uplink = ("ip", "-n", namespace(HUB), "link", "set", f"to-{name}")
    _run(*uplink, "nomaster")
    try:
        yield
    finally:
        _run(*uplink, "master", "bridge")


def commands_on(name: str) -> dict[int, str]:
    """Return the processes on a machine, and the command of each."""
    commands = {}
    for process in map(int, _run("ip", "netns", "pids", namespace(name)).split()):
        # One that has just ended has none.
        with suppress(OSError):
            words = Path(f"/proc/{process}/cmdline").read_bytes().replace(b"\0", b" ")
            commands[process] = words.decode(errors="replace")
    return commands


def processes_on(name: str, words: str, *, but: int = 0) -> list[int]:
    """Return the processes on a machine, but for one, whose command has these words."""
    return [
        process
        for process, command in commands_on(name).items()
        if words in command and process != but
    ]


def on(name: str) -> list[str]:
    """Return the words before a command that run it on a machine."""
    return [str(ON_NODE), namespace(name)]


@contextmanager
def machines() -> Iterator[None]:
    """The hub and the machines, from entry to exit."""
    with claim():
        take_down()
        try:
            _make()
            yield
        finally:
            take_down()


def _make() -> None:
    # Sockets of both families look up the second, for which no server answers here.
    lines = [f"{ip} {name}\n::ffff:{ip} {name}\n" for name, ip in ADDRESSES.items()]
    for name in map(namespace, ADDRESSES):
        (SETTINGS / name).mkdir(parents=True, exist_ok=True)
        text = MARK + "127.0.0.1 localhost\n" + "".join(lines)
        (SETTINGS / name / "hosts").write_text(text, encoding="utf-8")
        _run("ip", "netns", "add", name)
        _run("ip", "-n", name, "link", "set", "lo", "up")
    hub = namespace(HUB)
    bridge = ("ip", "-n", hub)
    _run(*bridge, "link", "add", "bridge", "type", "bridge")
    _run(*bridge, "address", "add", f"{ADDRESSES[HUB]}/24", "dev", "bridge")
    _run(*bridge, "link", "set", "bridge", "up")
    for name in MACHINES:
        machine = ("ip", "-n", namespace(name))
        pair = ("type", "veth", "peer", "name", f"to-{name}", "netns", hub)
        _run(*machine, "link", "add", "uplink", *pair)
        _run(*bridge, "link", "set", f"to-{name}", "master", "bridge", "up")
        _run(*machine, "address", "add", f"{ADDRESSES[name]}/24", "dev", "uplink")
        _run(*machine, "link", "set", "uplink", "up")


def _kill_all_in(name: str) -> None:
    deadline = time.monotonic() + 10
    while processes := _run("ip", "netns", "pids", name, check=False).split():
        assert time.monotonic() < deadline, f"{name} still runs {processes}"
        for process in processes:
            with suppress(ProcessLookupError):
                os.kill(int(process), signal.SIGKILL)
        time.sleep(0.02)


def _is_ours(name: str) -> bool:
    hosts = SETTINGS / name / "hosts"
    return hosts.exists() and hosts.read_text(encoding="utf-8").startswith(MARK)


def _run(*command: str, check: bool = True) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 or not check, f"{' '.join(command)}: {done.stderr}"
    return done.stdout
