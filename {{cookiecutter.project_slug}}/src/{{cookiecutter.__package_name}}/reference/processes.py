"""One process a device, for the references that need several; `torchrun` does the work."""

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.distributed.elastic.multiprocessing.api import SignalException
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.run import main as torchrun

from ..config import TrainConfig, parse_train_config
from ..errors import SettingError, errors_in_one_line


@dataclass(frozen=True, kw_only=True)
class ProcessesConfig(TrainConfig):
    """Settings of one training run, and how many processes it starts where no launcher did."""

    num_processes: int | None = None
    """Processes to start; None is one a device, and two on a CPU."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.num_processes is not None and self.num_processes < 1:
            raise SettingError(
                f"num_processes ({self.num_processes}) must be at least 1; try --num-processes 2"
            )


def run_processes(train: Callable[[TrainConfig], None]) -> None:
    """Run `train` in this process where a launcher started it, else in processes of its own.

    They talk over a free port of this machine; the first that fails ends the others.
    """
    with errors_in_one_line():
        config = parse_train_config(settings=ProcessesConfig)
        assert isinstance(config, ProcessesConfig)
        num_processes = config.num_processes or _default_num_processes(config)
        world_size = os.environ.get("WORLD_SIZE")
        if world_size is None and not config.plan:
            # As torchrun itself would, but without its warning in many lines.
            os.environ.setdefault("OMP_NUM_THREADS", "1")
            command = ["--standalone", "--nproc-per-node", str(num_processes)]
            command += ["--signals-to-handle", "SIGTERM,SIGINT,SIGUSR1,SIGHUP,SIGQUIT"]
            spec = sys.modules["__main__"].__spec__
            assert spec is not None
            try:
                torchrun([*command, "-m", spec.name, *sys.argv[1:]])
            except ChildFailedError as error:
                # The process has said why, unless it had no time; torchrun would add its own story.
                rank, first = error.get_first_failure()
                if first.exitcode < 0:
                    print(f"error: rank {rank} was ended by {first.signal_name()}", file=sys.stderr)
                raise SystemExit(first.exitcode if first.exitcode > 0 else 1) from None
            except SignalException as error:
                # The processes got the signal too, have saved and left.
                raise SystemExit(128 + error.sigval) from None
            return
        if world_size is not None and config.num_processes not in (None, int(world_size)):
            raise SettingError(
                f"num_processes ({config.num_processes}) is not what the launcher started "
                f"({world_size}); leave it out"
            )
        if world_size is None:
            os.environ["WORLD_SIZE"] = str(num_processes)
        train(config)


def _default_num_processes(config: TrainConfig) -> int:
    on_cpu = config.placement == "cpu" or not torch.accelerator.is_available()
    return 2 if on_cpu else torch.accelerator.device_count()
