"""What the processes of a job tell each other beside the process group: errors and signs of life.

Otherwise a rank that fails would leave the others in a collective until its timeout, without a word
about the cause.
"""

import json
import os
import socket
import time
from pathlib import Path

import torch.distributed as dist

from ..settings.errors import RunError, SettingError, in_one_line, is_first_of_machine
from ..settings.run_config import JOIN_SECONDS
from .heartbeat import Heartbeat, Silence
from .program import package_name, read_launcher
from .reachable import check_reachable
from .rendezvous import NOTICE_SECONDS, Store, connect, say

# A rank without a sign of life for so long is lost: after an error; and before training, where a
# library may hold the interpreter for a while.
SILENT_SECONDS, SILENT_BEFORE_TRAINING_SECONDS = 5.0, 60.0
# For all to learn of an error before the process ends that serves the store.
TELL_SECONDS = 10.0


class Peers:
    """The other processes of this job; where there are none, each method returns at once."""

    def __init__(self) -> None:
        self.hosts: list[str] = []
        """Machine of each rank; empty in a job of one process."""

        self._rank, self._world_size = 0, 1
        self._store: Store | None = None
        self._heartbeat: Heartbeat | None = None
        self._config_text: str | None = None
        self._has_tried = False
        self._num_lost = 0

    def join(self, seconds: float) -> None:
        """Wait until all processes are there, at most `seconds`.

        Raises:
            SettingError: not all are, or they do not reach each other.
        """
        store = self._connect(seconds)
        if store is None:
            return
        if self._config_text is not None:
            store.set("config", self._config_text)
        store.set(f"host/{self._rank}", socket.gethostname())
        start, has_said = time.monotonic(), False
        store.add("joined", 1)
        while (joined := store.add("joined", 0)) < self._world_size:
            self.raise_error()
            waited = time.monotonic() - start
            where = f"at {os.environ['MASTER_ADDR']}:{os.environ['MASTER_PORT']}"
            count = f"{joined} of {self._world_size} processes are {where}"
            if waited > seconds:
                missing = [r for r in range(self._world_size) if not store.check([f"host/{r}"])]
                ranks = ", ".join(map(str, missing[:8])) + ", ..." * (len(missing) > 8)
                raise SettingError(
                    f"{count} after {seconds:.0f} s, without rank {ranks}; start all machines "
                    "within that time, or give --join-seconds"
                )
            if not has_said and waited > NOTICE_SECONDS and self._rank == 0:
                has_said = True
                say(f"{count}; waiting for the others, for {seconds:.0f} s at most")
            time.sleep(0.1)
        self.hosts = [store.get(f"host/{rank}").decode() for rank in range(self._world_size)]
        if self._heartbeat:
            self._heartbeat.watch(self._world_size, self._lost)
        is_first_of_host = self.hosts.index(self.hosts[self._rank]) == self._rank
        if len(set(self.hosts)) > 1 and is_first_of_host:
            limit = min(seconds, 30.0)
            check_reachable(store, self._rank, self.hosts, limit, self.raise_error)

    def wait_until_ready(self) -> None:
        """Wait until all ranks are about to make the process group, as long as they live.

        Raises:
            SettingError, RunError: that of another rank; or a rank is lost.
        """
        store = self._store
        if store is None:
            return
        store.add("ready", 1)
        silence = Silence(store, range(self._world_size))
        while store.add("ready", 0) < self._world_size:
            self.raise_error()
            lost = silence.longer_than(SILENT_BEFORE_TRAINING_SECONDS)
            if lost:
                raise RunError(self._lost(lost))
            time.sleep(0.1)

    def raise_error(self) -> None:
        """Raise the error of another rank, if one has told any."""
        if self._heartbeat and self._heartbeat.error:
            code, text = self._heartbeat.error
            raise SettingError(text) if code == 2 else RunError(text)

    def explain(self, error: Exception) -> str:
        """Return why a collective failed: the error of another rank, or which rank is lost."""
        store, heartbeat = self._store, self._heartbeat
        if store is None or heartbeat is None:
            return in_one_line(error)
        silence = Silence(store, range(self._world_size))
        deadline = time.monotonic() + 3 * SILENT_SECONDS
        while heartbeat.error is None and time.monotonic() < deadline:
            time.sleep(0.2)
            if not is_first_of_machine():
                continue  # The first will tell.
            try:
                lost = silence.longer_than(SILENT_SECONDS)
            except RuntimeError:  # The store is gone, with the machine that served it.
                return self._lost([0])
            if lost:
                return self._lost(lost)
        return heartbeat.error[1] if heartbeat.error else f"no communication: {in_one_line(error)}"

    def tell(self, code: int, line: str) -> None:
        """Tell the other ranks that this one ends with an error, and wait until they know it."""
        try:
            is_alone = self._store is None and self._has_tried
            store = None if is_alone else self._connect(TELL_SECONDS)
            if store is None:
                return
            text = f"rank {self._rank} on {socket.gethostname()}: {line}"
            store.compare_set("error", "", json.dumps([code, text]))
            deadline = time.monotonic() + TELL_SECONDS
            # Each rank's heartbeat counts itself, this one's too.
            present = self._world_size - self._num_lost
            while store.add("told", 0) < present and time.monotonic() < deadline:
                time.sleep(0.1)
        except (RuntimeError, SettingError):
            return  # Nobody is there to be told.

    def read_config(self, file: Path) -> str:
        """Return the text of a config file; rank 0's, where this machine has no such file."""
        if read_launcher() == 1 or os.environ["RANK"] == "0" or file.exists():
            self._config_text = file.read_text(encoding="utf-8")
            return self._config_text
        store = self._connect(JOIN_SECONDS)
        deadline = time.monotonic() + JOIN_SECONDS
        while store is not None and time.monotonic() < deadline:
            self.raise_error()
            if store.check(["config"]):
                return str(store.get("config").decode())
            time.sleep(0.1)
        return file.read_text(encoding="utf-8")

    def leave(self) -> None:
        """Give no more signs of life; each rank calls it before the first one exits."""
        if self._heartbeat:
            self._heartbeat.end()
        self._heartbeat = None

    def _connect(self, seconds: float) -> Store | None:
        if self._store is None and (world_size := read_launcher()) > 1:
            self._has_tried = True
            self._rank, self._world_size = int(os.environ["RANK"]), world_size
            store = connect(self._rank, world_size, seconds)
            # torchrun may start the processes again, with the store of before. Where each start
            # has a store of its own, the count is not the prefix: a launcher does not count a
            # start that another machine's failure has caused.
            is_shared = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
            start = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") if is_shared else "0"
            prefix = f"{package_name()}/{start}"
            self._store = dist.PrefixStore(prefix, store)  # type: ignore[attr-defined]
            self._heartbeat = Heartbeat(self._store, self._rank)
        return self._store

    def _lost(self, ranks: list[int]) -> str:
        self._num_lost = len(ranks)
        # Before all have joined, only the address of rank 0 is known.
        hosts = self.hosts or [os.environ["MASTER_ADDR"]]
        hosts = list(dict.fromkeys(hosts[rank] for rank in ranks))
        shown = ", ".join(map(str, ranks[:8])) + ", ..." * (len(ranks) > 8)
        return (
            f"lost rank {shown} on {', '.join(hosts[:4])}: the process or its machine has ended, "
            "or the network is cut"
        )


PEERS = Peers()
