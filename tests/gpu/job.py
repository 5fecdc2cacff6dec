"""A job: a program of the project, how it is started, and on how many devices."""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
# Of a launcher that this program was started by, or of somebody's settings for Accelerate.
FOREIGN = (
    *("RANK", "WORLD_SIZE", "LOCAL_", "GROUP_", "ROLE_", "MASTER_", "TORCHELASTIC_"),
    *("ACCELERATE_", "FSDP_", "OMPI_", "PMI_", "MV2_", "CUBLAS_WORKSPACE_CONFIG"),
)


@dataclass(frozen=True)
class Job:
    """A program of the project, its flags, and how it is started."""

    program: str = "train"
    flags: tuple[str, ...] = ("--exact",)
    num_processes: int = 1
    num_devices: int = 1
    """Devices that its processes see, all together."""

    launcher: str = "python"
    """python, torchrun, or the name of a file of launch/."""

    strategy: str = "single"
    """What must run."""

    turn: int = 0
    """Tells repetitions of a run apart."""

    @property
    def is_shared(self) -> bool:
        """Whether its processes share one device."""
        return self.num_processes > self.num_devices

    @property
    def name(self) -> str:
        ranks = f"{self.num_processes} ranks" if self.num_processes > 1 else ""
        devices = f"{self.num_devices} devices" if self.num_devices > 1 else ""
        where = "on one device" if self.is_shared else devices
        launcher = "" if self.launcher in ("python", "torchrun") else self.launcher
        turn = f"turn {self.turn}" if self.turn else ""
        words = [self.program, *self.flags, launcher, ranks, where, turn]
        return " ".join(word for word in words if word)

    def command(self, project: Path, notes: Path, on: str, settings: list[str]) -> list[str]:
        """Return the words that start it: the launcher, `rank.py`, the program and its flags.

        Args:
            project: The rendered project.
            notes: Folder for what each rank notes.
            on: "cuda" or "cpu".
            settings: Flags before its own.
        """
        command = [sys.executable]
        if self.launcher == "torchrun":
            command += ["-m", "torch.distributed.run", "--standalone"]
            command += ["--nproc-per-node", str(self.num_processes)]
        elif self.launcher != "python":
            file = str(project / "launch" / self.launcher)
            command += ["-m", "accelerate.commands.launch", "--config_file", file]
        devices = "shared" if self.is_shared else "own"
        command += [str(HERE / "rank.py"), str(notes), devices]
        command += [f"{package_of(project)}.{self.program}", *settings, *self.flags]
        return [*command, "--placement", "cpu" if on == "cpu" else self.strategy]


def package_of(project: Path) -> str:
    """Return the name of a project's package."""
    found = [path.parent.name for path in project.glob("src/*/train.py")]
    if len(found) != 1:
        raise ValueError(f"{project} has no src/PACKAGE/train.py: it is no rendered project")
    return found[0]


def environment(project: Path, devices: str | None = None) -> dict[str, str]:
    """Return the environment of a job that sees these GPUs; None is those of this program."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith(FOREIGN)}
    # The project's first; then those of a machine without network, whose packages are in a folder.
    paths = [str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    # The folder of rank.py has modules of other names than the project's.
    ours = {"PYTHONPATH": os.pathsep.join(paths), "PYTHONSAFEPATH": "1", "OMP_NUM_THREADS": "1"}
    return kept | ours | ({} if devices is None else {"CUDA_VISIBLE_DEVICES": devices})


def end_all(process: subprocess.Popen[bytes]) -> None:
    """End a launcher and its processes: torchrun ends its own, within 30 seconds."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(timeout=45)
    except subprocess.TimeoutExpired:
        process.kill()
    if sys.platform != "win32":
        # What a launcher of one process leaves behind.
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
    process.wait()
