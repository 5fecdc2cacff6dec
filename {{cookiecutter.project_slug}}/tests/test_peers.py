"""Several machines that do not all come, differ, fail or are lost: one line on each, and soon."""

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist

from my_run.distributed import (
    failures,
    heartbeat,
    peers,
    reachable,
    rendezvous,
)
from my_run.distributed.devices import Devices
from my_run.distributed.failures import (
    failing_together,
    is_of_communication,
    lost_peers_named,
)
from my_run.distributed.heartbeat import (
    Heartbeat,
    Silence,
)
from my_run.distributed.peers import PEERS, Peers
from my_run.run.folder import RunFolder
from my_run.settings.errors import (
    RunError,
    SettingError,
    errors_in_one_line,
)

from .launching import PACKAGE, TIMEOUT_SECONDS, tiny_sources, wait_for
from .tiny.config import TrainConfig

SHORT = ["--placement", "cpu", "--tracker", "none", "--max-steps", "2"]
LONG = ["--placement", "cpu", "--tracker", "none", "--max-steps", "100000"]
# In the patched job, the file that makes rank 1 fail.
FAILS = """
import os
from pathlib import Path
_read = Points.__getitems__
def _fail(self, indices):
    if os.environ.get("RANK") == "1" and Path("fail-now").exists():
        raise KeyError("caption")
    return _read(self, indices)
Points.__getitems__ = _fail
"""
Machines = Callable[..., list[subprocess.Popen[str]]]


def free_port() -> str:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return str(free.getsockname()[1])


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    """A function that starts a program on two machines, each with a process and a folder."""
    started = []

    def start(
        *flags: list[str], program: str = "train", sources: Path | None = None
    ) -> list[subprocess.Popen[str]]:
        port = free_port()
        for rank, own in enumerate(flags):
            folder = tmp_path / f"machine-{rank}"
            folder.mkdir(exist_ok=True)
            variables = {"RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
            variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
            variables |= {"LOCAL_WORLD_SIZE": "1", "GROUP_WORLD_SIZE": "2"}
            process = subprocess.Popen(
                [sys.executable, "-m", f"{PACKAGE}.{program}", *own],
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                env=os.environ | {"PYTHONPATH": str(sources or tiny_sources())} | variables,
            )
            started.append(process)
        return started

    yield start
    for process in started:
        process.kill()
        process.communicate()


def error_of(process: subprocess.Popen[str], code: int) -> str:
    """Return the only line that a process writes to stderr, which ends with `code`."""
    _, printed = process.communicate(timeout=TIMEOUT_SECONDS)
    assert process.returncode == code, printed
    [line] = [line for line in printed.splitlines() if "; waiting for the others" not in line]
    return line


@pytest.mark.parametrize("rank", [0, 1])
def test_flags_that_one_machine_refuses_end_both(machines: Machines, rank: int) -> None:
    flags = [SHORT, SHORT]
    flags[rank] = [*SHORT, "--learning-rate", "fast"]
    both = machines(*flags)
    refusing, other = both[rank], both[1 - rank]

    assert "--learning-rate" in error_of(refusing, 2)
    assert f"error: rank {rank} on {socket.gethostname()}: " in error_of(other, 2)


def test_an_error_of_users_code_on_one_machine_is_told_to_the_other(
    machines: Machines, tmp_path: Path
) -> None:
    sources = shutil.copytree(tiny_sources(), tmp_path / "sources")
    with (sources / PACKAGE / "data.py").open("a", encoding="utf-8") as file:
        file.write(FAILS)
    flags = [*LONG, "--run-dir", str(tmp_path / "run"), "--log-every", "1"]
    first, second = machines(flags, flags, sources=sources)
    wait_for(2, tmp_path / "run")
    (tmp_path / "machine-1" / "fail-now").touch()
    _, printed = second.communicate(timeout=TIMEOUT_SECONDS)

    assert second.returncode == 1 and "Traceback" in printed and "KeyError: 'caption'" in printed
    line = error_of(first, 1)
    assert f"error: rank 1 on {socket.gethostname()}: KeyError: 'caption'. " in line
    assert re.search(r"resume with: .* --run-dir \S*run --resume (auto|must)$", line)


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("program", ["train", "reference.ddp"])
def test_a_lost_machine_is_one_line_on_the_other(
    machines: Machines, tmp_path: Path, program: str, rank: int
) -> None:
    run_dir = tmp_path / "run"
    flags = [*LONG, "--run-dir", str(run_dir), "--log-every", "1", "--checkpoint-every", "2"]
    both = machines(flags, flags, program=program)
    wait_for(5, run_dir)
    both[rank].kill()
    lost_at = time.monotonic()
    line = error_of(both[1 - rank], 1)

    assert time.monotonic() < lost_at + 60
    assert f"error: lost rank {rank} on {socket.gethostname()}: " in line
    assert re.search(r"The latest checkpoint is \S*step_\d+; resume with: ", line)


def test_a_machine_without_the_run_folder_says_where_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    devices = Devices("ddp", torch.device("cpu"), rank=1, world_size=2)
    folder = RunFolder(TrainConfig(run_dir=tmp_path / "run"), devices)
    monkeypatch.setattr(PEERS, "hosts", ["node-a", "node-b"])
    with pytest.raises(RunError) as raised:
        folder.__exit__(RunError, RunError("lost"), None)
    assert str(raised.value) == f"lost. The checkpoints are in {tmp_path / 'run'} on node-a"


def test_a_resume_needs_the_run_folder_on_the_machine_of_rank_0_alone(
    machines: Machines, tmp_path: Path
) -> None:
    flags = [*SHORT, "--run-dir", "run"]
    for process in machines(flags, flags):
        _, printed = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, printed
    assert not (tmp_path / "machine-1" / "run").exists()

    flags = ["--config", "run/config.yaml", "--max-steps", "4", "--run-dir", "run"]
    flags += ["--resume", "must"]
    for process in machines(flags, flags)[2:]:
        _, printed = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, printed
    assert '"resumed_from": 2' in (tmp_path / "machine-0" / "run" / "summary.json").read_text()
    assert not (tmp_path / "machine-1" / "run").exists()


@pytest.fixture
def launcher(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """This process is rank 1 of 2, and nobody listens at the address of rank 0."""
    variables = {"RANK": "1", "WORLD_SIZE": "2", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1"}
    for name, value in {**variables, "MASTER_PORT": free_port()}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("TORCHELASTIC_USE_AGENT_STORE", raising=False)
    monkeypatch.setattr(rendezvous, "NOTICE_SECONDS", 0.2)
    monkeypatch.setattr(rendezvous, "RETRY_SECONDS", 0.1)
    return monkeypatch


def test_nobody_at_the_address_is_said_and_then_an_error(
    launcher: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(
        SettingError, match=r"^nobody answers at 127.0.0.1:\d+ within 1 s \(connection refused\); s"
    ):
        Peers().join(1)
    assert "waiting for 127.0.0.1" in capsys.readouterr().err


def test_a_process_that_reached_nobody_does_not_try_to_tell(launcher: pytest.MonkeyPatch) -> None:
    others = Peers()
    with pytest.raises(SettingError):
        others.join(0.2)
    start = time.monotonic()
    others.tell(2, "an error")
    assert time.monotonic() < start + 1


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (
            socket.gaierror(-2, "?"),
            r"\(the name cannot be resolved\); write the name in /etc/hosts",
        ),
        (TimeoutError(), r"\(no answer\); give the address of the machine of rank 0"),
        (OSError(113, "No route to host"), r"\(No route to host\); give the address"),
    ],
)
def test_an_address_that_is_not_reached_names_the_remedy(
    error: OSError, reason: str, launcher: pytest.MonkeyPatch
) -> None:
    def connect(*args: Any, **kwargs: Any) -> None:
        raise error

    launcher.setattr(socket, "create_connection", connect)
    with pytest.raises(SettingError, match=reason):
        rendezvous.connect(1, 2, 0.3)


def test_rank_0_at_another_address_is_one_line(launcher: pytest.MonkeyPatch) -> None:
    launcher.setenv("MASTER_ADDR", "203.0.113.1")
    launcher.setattr(rendezvous, "TRY_SECONDS", 0.5)
    host = socket.gethostname()
    with pytest.raises(SettingError, match=rf"^rank 0 runs on {host} and does not answer at 203"):
        rendezvous.connect(0, 2, 1)


def test_a_port_in_use_is_one_line(launcher: pytest.MonkeyPatch) -> None:
    with socket.create_server(("", 0)) as other:
        launcher.setenv("MASTER_PORT", str(other.getsockname()[1]))
        with pytest.raises(SettingError, match=r"^rank 0 cannot listen at .* give a free one"):
            rendezvous.connect(0, 2, 1)


@pytest.mark.parametrize("port", ["70000", "no", "0"])
def test_a_port_that_is_none_is_one_line(port: str, launcher: pytest.MonkeyPatch) -> None:
    launcher.setenv("MASTER_PORT", port)
    with pytest.raises(SettingError, match=rf"^MASTER_PORT \({port}\) must be a number from 1"):
        rendezvous.connect(1, 2, 1)


def test_a_missing_process_is_counted_and_named(
    launcher: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    launcher.setenv("RANK", "0")
    launcher.setattr(peers, "NOTICE_SECONDS", 0.2)
    others = Peers()
    with pytest.raises(
        SettingError, match=r"^1 of 2 processes are at 127.0.0.1:\d+ after 1 s, without rank 1; st"
    ):
        others.join(1)
    assert "1 of 2 processes are at 127.0.0.1:" in capsys.readouterr().err
    others.leave()


def test_a_rank_lost_before_training_ends_the_wait_of_the_others(
    launcher: pytest.MonkeyPatch,
) -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    launcher.setattr(peers, "connect", lambda *_: store)
    launcher.setattr(peers, "SILENT_BEFORE_TRAINING_SECONDS", 1.5)
    launcher.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.2)
    others = Peers()
    prefix = f"{PACKAGE}/0"
    for key in ("joined", "alive/0"):
        store.add(f"{prefix}/{key}", 1)
    store.set(f"{prefix}/host/0", socket.gethostname())
    others.join(1)
    with pytest.raises(RunError, match=rf"^lost rank 0 on {socket.gethostname()}: the process or"):
        others.wait_until_ready()
    others.leave()


def test_rank_0_lost_while_the_others_join_is_one_line(launcher: pytest.MonkeyPatch) -> None:
    class Gone:
        def __getattr__(self, name: str) -> Any:
            raise dist.DistNetworkError("Broken pipe")

    others = Peers()
    launcher.setattr(others, "_store", Gone())
    launcher.setattr(others, "_heartbeat", SimpleNamespace(error=None))
    launcher.setattr(failures, "PEERS", others)
    with pytest.raises(RunError, match=r"^lost rank 0 on 127.0.0.1: the"), lost_peers_named():
        others.join(1)


def test_an_error_before_training_ends_the_wait_of_the_others(
    launcher: pytest.MonkeyPatch,
) -> None:
    store = dist.HashStore()  # type: ignore[attr-defined]
    launcher.setattr(peers, "connect", lambda *_: store)
    launcher.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.2)
    launcher.setattr(heartbeat, "_leave", lambda *_: None)  # It would end this process.
    prefix = f"{PACKAGE}/0"
    for key in ("joined", "alive/0"):
        store.add(f"{prefix}/{key}", 1)
    store.set(f"{prefix}/host/0", socket.gethostname())
    others = Peers()
    others.join(1)
    store.set(f"{prefix}/error", '[2, "rank 0 on a: data.py: no files"]')
    with pytest.raises(SettingError, match=r"^rank 0 on a: data.py: no files$"):
        others.wait_until_ready()
    others.leave()


def test_a_rank_that_hangs_ends_after_the_error_of_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    left = left_by_heartbeats(monkeypatch)
    store = dist.HashStore()  # type: ignore[attr-defined]
    thread = Heartbeat(store, 0)
    store.set("error", '[1, "rank 1 on b: KeyError: 1"]')
    wait_until(lambda: bool(left))
    thread.end()
    assert left == [(1, "error: rank 1 on b: KeyError: 1")]
    assert thread.error == (1, "rank 1 on b: KeyError: 1") and store.add("told", 0) == 1


def test_silence_is_that_of_the_rank_which_does_not_count(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.1)
    store = dist.HashStore()  # type: ignore[attr-defined]
    for rank in range(3):
        store.add(f"alive/{rank}", 1)
    silence = Silence(store, range(3))
    for _ in range(4):
        time.sleep(0.1)
        store.add("alive/0", 1)
        store.add("alive/2", 1)
        lost = silence.longer_than(0.25)
    assert lost == [1]
    # A process that was stopped for a while has not listened.
    time.sleep(0.6)
    assert silence.longer_than(0.25) == []


# A launcher that ignores SIGTERM; its rank asks for its end, and ends.
CUT_OFF = """
import signal, subprocess, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
code = "from my_run.distributed import heartbeat as h"
code += "; h.LAUNCHER_SECONDS = 0.5; h.end_launcher_soon()"
subprocess.run([sys.executable, "-c", code], check=True)
time.sleep(5)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="needs a handle of a process")
@pytest.mark.parametrize(("restarts", "code"), [("0", -9), ("3", 0)])
def test_a_cut_off_launcher_is_ended_unless_it_may_restart(restarts: str, code: int) -> None:
    variables = {"TORCHELASTIC_MAX_RESTARTS": restarts, "PYTHONPATH": str(tiny_sources())}
    done = subprocess.run([sys.executable, "-c", CUT_OFF], env=os.environ | variables)
    assert done.returncode == code


def left_by_heartbeats(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, str]]:
    """Return the list in which heartbeats, quicker than real ones, note how they leave."""
    left: list[tuple[int, str]] = []
    monkeypatch.setattr(heartbeat, "leave_with", lambda *args: left.append(args))
    monkeypatch.setattr(heartbeat, "HEARTBEAT_SECONDS", 0.05)
    monkeypatch.setattr(heartbeat, "LEAVE_SECONDS", 0.1)
    monkeypatch.setattr(heartbeat, "LOST_SECONDS", 0.5)
    return left


@pytest.mark.parametrize("rank", [0, 1])
def test_a_silent_rank_is_lost_though_no_collective_fails(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    left = left_by_heartbeats(monkeypatch)
    store = dist.HashStore()  # type: ignore[attr-defined]
    store.add(f"alive/{1 - rank}", 1)
    thread = Heartbeat(store, rank)
    thread.watch(2, lambda ranks: f"lost rank {ranks}")
    wait_until(lambda: bool(left))
    thread.end()
    assert left[0] == (1, f"error: lost rank [{1 - rank}]")


def test_a_rank_that_has_left_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by_heartbeats(monkeypatch)
    store = dist.HashStore()  # type: ignore[attr-defined]
    first, second = (Heartbeat(store, rank) for rank in range(2))
    first.watch(2, str)
    second.end()
    time.sleep(1.5)
    first.end()
    assert left == []


def test_a_store_that_does_not_answer_ends_the_process(monkeypatch: pytest.MonkeyPatch) -> None:
    left = left_by_heartbeats(monkeypatch)
    monkeypatch.setenv("MASTER_ADDR", "node-a")
    monkeypatch.setenv("MASTER_PORT", "29500")
    monkeypatch.setenv("GROUP_WORLD_SIZE", "2")
    is_cut = threading.Event()

    class Store:
        def add(self, *args: Any) -> None:
            if is_cut.is_set():
                threading.Event().wait()

        def check(self, keys: list[str]) -> bool:
            return False

    thread = Heartbeat(Store(), 1)
    time.sleep(1)
    assert left == []
    is_cut.set()
    wait_until(lambda: bool(left))
    thread._has_ended.set()
    host = socket.gethostname()
    assert left[0][1].startswith(f"{host}: error: no answer from node-a:29500 for 0 s: its machine")
    # Each machine says it once.
    monkeypatch.setenv("LOCAL_RANK", "1")
    heartbeat._leave(1, "again")
    assert left[-1] == (1, "")


def wait_until(is_reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def reach(names: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Let two machines check that they reach each other; return their errors.

    Args:
        names: Address of each machine's name.
        monkeypatch: To let each have a name.
    """
    store = dist.HashStore()  # type: ignore[attr-defined]
    errors: list[str] = []
    hosts = list(names)
    real = socket.getaddrinfo

    def resolve(name: Any, *args: Any, **kwargs: Any) -> Any:
        return real(names.get(name, name), *args, **kwargs)

    monkeypatch.setattr(socket, "getaddrinfo", resolve)
    monkeypatch.setattr(socket, "gethostname", lambda: hosts[int(threading.current_thread().name)])
    monkeypatch.setattr(reachable, "_is_loopback", lambda address: address == "127.0.1.1")

    def raise_error() -> None:
        if errors:
            raise SettingError(errors[0])

    def check(rank: int) -> None:
        try:
            reachable.check_reachable(store, rank, hosts, 2, raise_error)
        except SettingError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=check, args=(rank,), name=str(rank)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return errors


def test_machines_that_reach_each_other_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    assert reach({"a": "127.0.0.1", "b": "127.0.0.2"}, monkeypatch) == []


def test_a_machine_named_loopback_is_one_line_with_the_remedy(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("GLOO_SOCKET_IFNAME", raising=False)
    errors = reach({"a": "127.0.0.1", "b": "127.0.1.1"}, monkeypatch)
    assert len(errors) == 2
    for error in errors:
        assert "the name b of this machine is 127.0.1.1, this machine itself" in error
        assert "set GLOO_SOCKET_IFNAME" in error


def test_an_error_of_communication_is_known_by_its_words() -> None:
    for text in ("[gloo/transport/tcp/pair.cc:553] Connection closed by peer", "NCCL error"):
        assert is_of_communication(RuntimeError(text))
    assert is_of_communication(dist.DistBackendError("timeout"))
    for error in (RuntimeError("size mismatch"), ValueError("gloo"), RunError("of gloo"), None):
        assert not is_of_communication(error)


def test_an_error_of_communication_outside_the_loop_is_a_run_error(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Peers, "explain", lambda self, error: f"lost rank 1: {error}")
    with pytest.raises(RunError, match=r"^lost rank 1: gloo: closed$"), lost_peers_named():
        raise RuntimeError("gloo: closed")
    with pytest.raises(RuntimeError, match=r"^size mismatch$"), lost_peers_named():
        raise RuntimeError("size mismatch")


def test_a_traceback_comes_before_the_others_are_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told = []

    def tell(self: Peers, code: int, line: str) -> None:
        told.append((code, line, capsys.readouterr().err))

    monkeypatch.setattr(Peers, "tell", tell)
    for error in (KeyError("x"), SettingError("no"), RunError("lost")):
        with pytest.raises(SystemExit), failing_together(), errors_in_one_line():
            raise error
    assert [(code, line) for code, line, _ in told] == [
        (1, "KeyError: 'x'"),
        (2, "no"),
        (1, "lost"),
    ]
    printed = [text for _, _, text in told]
    assert printed[0].startswith("Traceback") and "KeyError: 'x'" in printed[0]
    assert printed[1].endswith("error: no\n") and printed[2].endswith("error: lost\n")


def test_one_process_has_no_peers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = Peers()
    alone.join(1)
    alone.wait_until_ready()
    alone.raise_error()
    alone.tell(1, "an error")
    assert (alone.hosts, alone.explain(RuntimeError("x"))) == ([], "RuntimeError: x")


@pytest.mark.skipif(
    sys.platform == "win32", reason="Windows cannot stop a process and let it go on"
)
def test_a_stopped_process_is_not_lost_while_nothing_has_failed(
    machines: Machines, tmp_path: Path
) -> None:
    """A machine that is busy for a while must not end the run."""
    flags = [*LONG, "--run-dir", str(tmp_path / "run"), "--log-every", "1"]
    both = machines(flags, flags)
    wait_for(2, tmp_path / "run")
    both[1].send_signal(signal.Signals["SIGSTOP"])
    time.sleep(2 * peers.SILENT_SECONDS)
    both[1].send_signal(signal.Signals["SIGCONT"])
    both[0].send_signal(signal.SIGTERM)
    for process in both:
        _, printed = process.communicate(timeout=TIMEOUT_SECONDS)
        assert process.returncode == 0, printed
