"""How this program was started: by which module, under which launcher."""

import os
import sys

from ..settings.errors import SettingError
from .slurm import read_slurm

# What torchrun sets, and `accelerate launch` for several processes.
LAUNCHER_VARIABLES = ("WORLD_SIZE", "RANK", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
# Of mpirun; Accelerate would read them, but not all that it needs is there.
OTHER_WORLD_SIZES = ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "MV2_COMM_WORLD_SIZE")


def read_launcher() -> int:
    """Return the number of processes that a launcher started; 1 if there is none.

    In a step of Slurm, the variables of a launcher are set. Those that are empty, or left over from
    a launcher of one process, are removed: other libraries read them too.

    Raises:
        SettingError: a variable is not a number, out of range, or of a launcher that is not
            supported.
    """
    read_slurm()
    numbers = {name: _number(name) for name in (*LAUNCHER_VARIABLES, *OTHER_WORLD_SIZES)}
    world_size = numbers["WORLD_SIZE"]
    if world_size is None:
        for name in OTHER_WORLD_SIZES:
            if (numbers[name] or 1) > 1:
                raise SettingError(
                    f"{name} is {numbers[name]}, and mpirun is not supported; start with torchrun "
                    f"or accelerate launch, or unset {name}"
                )
    elif world_size > 1 and numbers["RANK"] is None:
        raise SettingError(
            f"WORLD_SIZE is {world_size} and RANK is not set; start with torchrun, or unset "
            "WORLD_SIZE"
        )
    rank = numbers["RANK"] or 0
    if world_size is not None and not 0 <= rank < world_size:
        raise SettingError(
            f"RANK ({rank}) must be from 0 to WORLD_SIZE - 1 ({world_size - 1}); start with "
            "torchrun, or unset both"
        )
    if world_size is None or numbers["RANK"] is None:
        forget_launcher()
    return world_size or 1


def forget_launcher() -> None:
    """Remove the variables of a launcher of one process; Accelerate takes them for several."""
    for name in (*LAUNCHER_VARIABLES, *OTHER_WORLD_SIZES):
        os.environ.pop(name, None)


def _number(name: str) -> int | None:
    text = os.environ.get(name, "")
    if not text.strip():
        os.environ.pop(name, None)
        return None
    try:
        return int(text)
    except ValueError:
        raise SettingError(f"{name} ({text!r}) is not a number; unset it") from None


def program_name() -> str:
    """Return the module that `python -m` started."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else "PROGRAM"


def launch_command(world_size: int) -> str:
    """Return the words before `-m` that start this program again as it was started."""
    per_machine = os.environ.get("LOCAL_WORLD_SIZE", "gpu")
    num_machines = os.environ.get("GROUP_WORLD_SIZE", "1")
    if world_size == 1:
        return "python"
    if "SLURM_STEP_NUM_TASKS" in os.environ and "TORCHELASTIC_RUN_ID" not in os.environ:
        return f"srun --nodes {num_machines} --ntasks {world_size} python"
    if accelerate_sets("USE_FSDP"):
        # Without these settings of Accelerate, placement auto would be DDP.
        return "accelerate launch --config_file launch/fsdp2.yaml"
    if num_machines == "1":
        return f"torchrun --nproc-per-node {per_machine}"
    # What else it was told is not among its variables.
    again = f"(on each of {num_machines} machines, with the flags that it had)"
    if any(name.startswith("ACCELERATE_") for name in os.environ):
        return f"{again} accelerate launch"
    return f"{again} torchrun --nnodes {num_machines} --nproc-per-node {per_machine}"


def package_name() -> str:
    """Return the name of this project's package."""
    return __name__.partition(".")[0]


def accelerate_sets(name: str) -> bool:
    """Return whether `accelerate launch` has set ACCELERATE_`name`, such as USE_CPU, to true."""
    return os.environ.get(f"ACCELERATE_{name}", "").lower() == "true"
