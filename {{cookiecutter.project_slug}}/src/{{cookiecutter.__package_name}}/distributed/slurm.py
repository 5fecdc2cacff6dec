"""Slurm as a launcher: `srun python -m ...` starts a process for each task, and no other program.

Source: the environment variables in the manual page of srun.
"""

import os
import re

from ..settings.errors import SettingError


def read_slurm() -> None:
    """Set the variables that torchrun would set, from those of a step of several tasks.

    Does nothing outside `srun`, in a step of one task, and where another launcher has set them.
    `MASTER_ADDR` and `MASTER_PORT` are kept if they are set.

    Raises:
        SettingError: a variable of Slurm is missing or cannot be read.
    """
    # Only srun sets it; a batch script has SLURM_NTASKS, and is one process.
    world_size = os.environ.get("SLURM_STEP_NUM_TASKS", "1")
    if world_size == "1" or os.environ.get("RANK") or os.environ.get("WORLD_SIZE"):
        return
    try:
        node = int(os.environ["SLURM_NODEID"])
        tasks = tasks_per_node(os.environ["SLURM_STEP_TASKS_PER_NODE"])
        job, step = int(os.environ["SLURM_JOB_ID"]), int(os.environ["SLURM_STEP_ID"])
        start = int(os.environ.get("SLURM_RESTART_COUNT") or 0)
        os.environ |= {
            "RANK": os.environ["SLURM_PROCID"],
            "WORLD_SIZE": world_size,
            "LOCAL_RANK": os.environ["SLURM_LOCALID"],
            "LOCAL_WORLD_SIZE": str(tasks[node]),
            "GROUP_RANK": str(node),
            "GROUP_WORLD_SIZE": str(len(tasks)),
        }
        if os.environ.get("SLURM_GPUS_PER_TASK"):  # Each task sees its own GPUs only.
            os.environ |= {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
        os.environ.setdefault("MASTER_ADDR", first_host(os.environ["SLURM_STEP_NODELIST"]))
        # Another one for each step and start: that of the last may still be in use.
        port = 20_000 + (job * 7 + step * 3 + start) % 10_000
        os.environ.setdefault("MASTER_PORT", str(port))
    except (KeyError, ValueError, IndexError) as error:
        raise SettingError(
            f"Slurm's variables cannot be read ({error}); start with srun, or set RANK, "
            "WORLD_SIZE, LOCAL_RANK, MASTER_ADDR and MASTER_PORT"
        ) from error


def first_host(nodes: str) -> str:
    """Return the first host of a list such as `gpu[003-007,9],login1`: gpu003.

    Raises:
        ValueError: it is no such list.
    """
    match = re.match(r"([^\[,\s]+)(?:\[(\d+)[^\]]*\]([^,\s]*))?", nodes)
    if match is None:
        raise ValueError(f"SLURM_STEP_NODELIST {nodes!r}")
    return "".join(part or "" for part in match.groups())


def tasks_per_node(tasks: str) -> list[int]:
    """Return the number of tasks of each node, from a list such as `2(x3),1`: [2, 2, 2, 1].

    Raises:
        ValueError: it is no such list.
    """
    counts = []
    for part in tasks.split(","):
        match = re.fullmatch(r"(\d+)(?:\(x(\d+)\))?", part.strip())
        if match is None:
            raise ValueError(f"SLURM_STEP_TASKS_PER_NODE {tasks!r}")
        counts += [int(match[1])] * int(match[2] or 1)
    return counts
