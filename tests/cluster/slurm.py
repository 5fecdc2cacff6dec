"""Start Slurm's daemons, each node in a network namespace; take everything down afterwards."""

import os
import re
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from .network import ADDRESSES, HUB, MACHINES, PROGRAMS, kill_all_on, machines, obstacle, on

DAEMONS = ("munged", "slurmctld", "slurmd", "srun")
# Of a job that Slurm has not done with.
UNFINISHED = {"PENDING", "RUNNING", "COMPLETING", "CONFIGURING", "SUSPENDED", "REQUEUED"}
START_SECONDS, JOB_SECONDS = 60.0, 180.0

CONFIGURATION = """
ClusterName=test
SlurmctldHost={hub}({hub_address})
SlurmUser=root
SlurmdUser=root
AuthInfo=socket={folder}/munge.socket
StateSaveLocation={folder}/state
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdSpoolDir={folder}/spool-%n
SlurmdPidFile={folder}/slurmd-%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SchedulerParameters=sched_interval=1,bf_interval=1,sched_min_interval=0
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
KillWait=20
SlurmdTimeout=10
JobAcctGatherType=jobacct_gather/none
JobRequeue=1
SlurmdParameters=config_overrides
{nodes}
PartitionName=main Nodes=ALL Default=YES MaxTime=1-0 PriorityTier=1 GraceTime=60
PartitionName=urgent Nodes=ALL MaxTime=1-0 PriorityTier=10 PreemptMode=OFF
"""


def slurm_obstacle() -> str | None:
    """Return why no Slurm can be started here; None if one can."""
    return obstacle((*PROGRAMS, *DAEMONS))


class Slurm:
    """A controller on the hub and a daemon on each node; all files are in `folder`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    def call(self, *command: str, check: bool = True, cwd: Path | None = None) -> str:
        """Run a command of Slurm on the hub, and return what it prints."""
        done = subprocess.run(
            [*on(HUB), *command],
            env=self._environment,
            capture_output=True,
            text=True,
            cwd=cwd or self.folder,
            timeout=60,
        )
        assert done.returncode == 0 or not check, done.stderr
        return done.stdout.strip()

    def start_node(self, node: str) -> None:
        """Start the daemon of a node."""
        self._start(node, *on(node), "slurmd", "-D", "-N", node)

    def lose_node(self, node: str) -> None:
        """Cut a node off, and end all that runs on it, as if its power had failed."""
        self._daemons.pop(node).kill()
        kill_all_on(node)

    def job(self, number: str) -> dict[str, str]:
        """Return what Slurm knows of a job, such as `JobState`, `Restarts` and `ExitCode`."""
        shown = self.call("scontrol", "show", "job", number)
        return dict(re.findall(r"(\w+)=(\S*)", shown))

    def wait(self, number: str, is_reached: Callable[[dict[str, str]], bool], what: str) -> None:
        """Wait until a job has reached a state; name it if that takes too long."""
        deadline = time.monotonic() + JOB_SECONDS
        while not is_reached(job := self.job(number)):
            assert time.monotonic() < deadline, (
                f"job {number} did not reach {what}: it is {job['JobState']}, {job['Reason']}"
            )
            time.sleep(0.5)  # Each look costs 50 ms of a core.

    def finish(self, number: str) -> dict[str, str]:
        """Wait until Slurm has done with a job, and return what it knows of it."""
        self.wait(number, lambda job: job["JobState"] not in UNFINISHED, "its end")
        return self.job(number)

    def start(self) -> None:
        """Start all daemons, and wait until the nodes are free."""
        lines = [
            f"NodeName={node} NodeAddr={ADDRESSES[node]} CPUs=2 RealMemory=4000"
            for node in MACHINES
        ]
        configuration = CONFIGURATION.format(
            folder=self.folder, hub=HUB, hub_address=ADDRESSES[HUB], nodes="\n".join(lines)
        )
        (self.folder / "slurm.conf").write_text(configuration, encoding="utf-8")
        key, socket = self.folder / "munge.key", self.folder / "munge.socket"
        key.write_bytes(os.urandom(128))
        key.chmod(0o400)
        (self.folder / "state").mkdir()
        files = [f"--{name}-file={self.folder}/munge.{name}" for name in ("pid", "log", "seed")]
        command = ("munged", "--foreground", "--force", f"--key-file={key}", f"--socket={socket}")
        # On the hub, so that it ends with it.
        self._start("munged", *on(HUB), *command, *files)
        self._wait_for(socket.exists, "munged")
        self._start(HUB, *on(HUB), "slurmctld", "-D")
        for node in MACHINES:
            (self.folder / f"spool-{node}").mkdir()
            self.start_node(node)
        states = ("sinfo", "--noheader", "--Node", "--partition=main", "--format=%T")
        expected = ["idle"] * len(MACHINES)
        self._wait_for(lambda: self.call(*states, check=False).split() == expected, "the nodes")

    def stop(self) -> None:
        """End the daemons, which have nothing to save."""
        for daemon in self._daemons.values():
            daemon.kill()
            daemon.wait()

    def _start(self, name: str, *command: str) -> None:
        with (self.folder / f"{name}.output").open("ab") as output:
            self._daemons[name] = subprocess.Popen(
                command,
                stdout=output,
                stderr=output,
                env=self._environment,
                start_new_session=True,
            )

    def _wait_for(self, is_there: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while not is_there():
            outputs = [file.read_text() for file in self.folder.glob("*.output")]
            assert time.monotonic() < deadline, f"{what}: {outputs}"
            time.sleep(0.2)


@contextmanager
def running_slurm(folder: Path) -> Iterator[Slurm]:
    """Slurm on machines of its own, from entry to exit."""
    with machines():
        slurm = Slurm(folder)
        try:
            slurm.start()
            yield slurm
        finally:
            slurm.stop()
