"""What differs between the versions of torch, as in those that are not installed here."""

import signal
import sys
from collections.abc import Iterator

import pytest
import torch.distributed as dist
from torch import Tensor, zeros
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.launcher.api import LaunchConfig

from my_run.distributed.versions import (
    start_all_gather,
    torchrun_flags,
)

FIELDS = LaunchConfig.__dataclass_fields__


@pytest.fixture
def signals_restored() -> Iterator[None]:
    if sys.platform == "win32":
        pytest.skip("needs POSIX signals")
    numbers = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
    handlers = {number: signal.getsignal(number) for number in numbers}
    blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    yield
    signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("signals_restored")
def test_torchrun_without_a_flag_for_signals_gets_handlers(monkeypatch: pytest.MonkeyPatch) -> None:
    if sys.platform == "win32":
        pytest.skip("needs POSIX signals")
    wanted = [signal.SIGTERM, signal.SIGINT, signal.SIGUSR1]
    monkeypatch.delitem(FIELDS, "signals_to_handle", raising=False)

    assert torchrun_flags(wanted) == []
    for number in wanted:
        # Called, not sent: without a handler, the signal would end the tests.
        handler = signal.getsignal(number)
        assert callable(handler)
        with pytest.raises(SignalException) as caught:
            handler(number, None)
        assert caught.value.sigval == number
    # torchrun would set a handler for these, and a run under nohup would end with its terminal.
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) >= {signal.SIGHUP, signal.SIGQUIT}


def test_torchrun_with_a_flag_for_signals_gets_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FIELDS, "signals_to_handle", FIELDS["role"])
    flags = torchrun_flags([signal.SIGTERM, signal.SIGINT])

    assert flags == ["--signals-to-handle", "SIGTERM,SIGINT"]


@pytest.mark.parametrize("name", ["all_gather_single", "all_gather_into_tensor"])
def test_parts_are_gathered_by_the_name_that_torch_has(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gather(output: Tensor, part: Tensor, async_op: bool) -> str:
        return f"{name}: {len(output)} from {len(part)}, {async_op}"

    monkeypatch.delattr(dist, "all_gather_single", raising=False)
    monkeypatch.setattr(dist, name, gather, raising=False)

    assert start_all_gather(zeros(4), zeros(2)) == f"{name}: 4 from 2, True"
