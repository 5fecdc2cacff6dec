"""`--help` and wrong flags before torch is imported, which takes seconds."""

import os
import sys
from dataclasses import make_dataclass
from typing import Annotated, TypeVar

import tyro
from annotated_types import Ge

from .config_file import parse_config
from .errors import errors_in_one_line
from .run_config import RunConfig

Config = TypeVar("Config", bound=RunConfig)

# They have the flag --num-processes.
STARTING_PROCESSES = ("reference.ddp", "reference.fsdp2")
# Where several processes were started, each must tell the others of a wrong flag.
WORLD_SIZES = ("WORLD_SIZE", "SLURM_STEP_NUM_TASKS")


def check_flags(settings: type[RunConfig]) -> None:
    """Check the flags of a program that trains, which `python -m` is about to import."""
    if any(os.environ.get(name, "1") not in ("", "1") for name in WORLD_SIZES):
        return
    position = sys.orig_argv.index("-m") + 1 if "-m" in sys.orig_argv else len(sys.orig_argv)
    name = "".join(sys.orig_argv[position : position + 1])
    program = name.partition(".")[2]
    if program != "train" and not program.startswith("reference."):
        return
    if program in STARTING_PROCESSES:
        settings = with_num_processes(settings)
    with errors_in_one_line():
        parse_config(settings, sys.orig_argv[position + 1 :], program=name)


def with_num_processes(settings: type[Config]) -> type[Config]:
    """Return `settings` with the flag --num-processes."""
    text = "Processes to start; None is one per GPU, or two on a CPU."
    kind = Annotated[int | None, Ge(1), tyro.conf.arg(help=text)]
    return make_dataclass(
        settings.__name__,
        [("num_processes", kind, None)],
        bases=(settings,),
        namespace={"__doc__": settings.__doc__},
        frozen=True,
        kw_only=True,
    )
