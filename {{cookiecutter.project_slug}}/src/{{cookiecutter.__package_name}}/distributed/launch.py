"""The start of a program, in this process or in several.

`run_in_processes` starts one process per device, by torchrun, unless a launcher has done so.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

from ..settings.config_file import parse_config
from ..settings.errors import SettingError, errors_in_one_line
from ..settings.run_config import RunConfig
from ..settings.start_up import with_num_processes
from .failures import failing_together, lost_peers_named
from .peers import PEERS
from .process_group import leave_process_group
from .program import program_name, read_launcher
from .signal_watch import WATCH
from .versions import torchrun_flags

Config = TypeVar("Config", bound=RunConfig)


def run_in_this_process(train: Callable[[Config], None], settings: type[Config]) -> None:
    """Parse the command line and call `train` in this process."""
    with failing_together(), errors_in_one_line():
        _train(train, parse_config(settings, read=PEERS.read_config))


def run_in_processes(train: Callable[[Config], None], settings: type[Config]) -> None:
    """Call `train` in each of several processes: the launcher's, or those that this one starts.

    The latter communicate over a free port of this machine; the first that fails ends the others.
    """
    with failing_together(), errors_in_one_line():
        world_size = read_launcher()
        is_launched = "WORLD_SIZE" in os.environ
        config: Any = parse_config(with_num_processes(settings), read=PEERS.read_config)
        default = world_size if is_launched else _default_num_processes(config)
        num_processes = config.num_processes or default
        if is_launched and num_processes != world_size:
            raise SettingError(
                f"num_processes ({num_processes}) is not what the launcher started "
                f"({world_size}); leave it out"
            )
        if not is_launched and num_processes > 1:
            if not config.plan_only:
                return _start_processes(num_processes)
            os.environ.update(WORLD_SIZE=str(num_processes), RANK="0")
        _train(train, config)


def _train(train: Callable[[Config], None], config: Config) -> None:
    """Call `train`; exit with `stop_exit_code` if a signal stopped it."""
    with lost_peers_named():
        if not config.plan_only:
            PEERS.join(config.join_seconds)
        train(config)
        leave_process_group()
    if WATCH.has_stopped_run:
        sys.exit(config.stop_exit_code)


def _default_num_processes(config: RunConfig) -> int:
    on_cpu = config.placement == "cpu" or not torch.accelerator.is_available()
    return 2 if on_cpu else torch.accelerator.device_count()


def _handled_signals() -> list[signal.Signals]:
    """Return the signals that torchrun forwards, but for those that are ignored."""
    names = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGHUP", "SIGQUIT")
    numbers = [getattr(signal, name) for name in names if hasattr(signal, name)]
    return [number for number in numbers if signal.getsignal(number) is not signal.SIG_IGN]


def _start_processes(num_processes: int) -> None:
    """Start this program again under torchrun, and exit with the code of what failed first."""
    # Not at the top: only the parent process needs them.
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.run import main as torchrun

    # torchrun would set it too, after a warning of many lines.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    command = ["--standalone", "--nproc-per-node", str(num_processes)]
    WATCH.stop()  # torchrun handles them.
    try:
        command += torchrun_flags(_handled_signals())
        torchrun([*command, "-m", program_name(), *sys.argv[1:]])
    except ChildFailedError as error:
        # The process has printed its error, unless a signal killed it.
        rank, first = error.get_first_failure()
        if first.exitcode < 0:
            print(f"error: rank {rank} was killed by {first.signal_name()}", file=sys.stderr)
        raise SystemExit(first.exitcode if first.exitcode > 0 else 1) from None
    except SignalException as error:
        # The processes received the signal too; they have saved a checkpoint and exited.
        raise SystemExit(128 + error.sigval) from None
