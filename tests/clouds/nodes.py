"""Two machines of a cloud, as processes here: what they run, the signals they get, how they end."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..runs import Run

# Enough steps for a signal that is sent after a few of them to find the run under way.
FLAGS = ["--max-steps", "60", "--eval-every", "30", "--log-every", "1", "--checkpoint-every", "5"]
FLAGS += ["--placement", "cpu", "--tracker", "none"]
TIMEOUT_SECONDS = 240
# A namespace of processes of its own, as a container has: the command is process 1 there.
CONTAINER = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]


@dataclass
class Node:
    """A command that runs as one machine would run it."""

    job: subprocess.Popen[str]
    is_container: bool = False
    ended_at: float = field(default=0.0, init=False)

    def stop(self) -> None:
        """Send SIGTERM as the machine does: to process 1, or to the group of the script."""
        if self.is_container:
            os.kill(only_child(self.job.pid), signal.SIGTERM)
        else:
            os.killpg(self.job.pid, signal.SIGTERM)

    def finish(self) -> tuple[int, str]:
        """Wait for the end; return the exit code and all that was printed."""
        printed, _ = self.job.communicate(timeout=TIMEOUT_SECONDS)
        self.ended_at = time.monotonic()
        return self.job.returncode, printed


@contextlib.contextmanager
def nodes(
    command: list[str],
    environments: Sequence[Mapping[str, str]],
    *,
    cwd: Path,
    is_container: bool = False,
) -> Iterator[list[Node]]:
    """Start `command` once with each of these environments; what is left at the end is killed."""
    started = []
    try:
        for environment in environments:
            job = subprocess.Popen(
                [*CONTAINER, *command] if is_container else command,
                cwd=cwd,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                encoding="utf-8",
                start_new_session=True,
            )
            started.append(Node(job, is_container))
        yield started
    finally:
        for node in started:
            if node.job.poll() is None:
                os.killpg(node.job.pid, signal.SIGKILL)
                node.job.wait()


def only_child(pid: int) -> int:
    """Return the process that `unshare` started, once it is there."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    [child] = wait_for(lambda: file.read_text().split(), f"a child of {pid}")
    return int(child)


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Return the first true value of `condition`."""
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not (value := condition()):
        assert time.monotonic() < deadline, f"no {what}"
        time.sleep(0.1)
    return value


def wait_for_steps(run: Run, steps: int) -> None:
    file = run.folder / "metrics.jsonl"
    wait_for(lambda: file.exists() and file.read_bytes().count(b"\n") >= steps, f"step {steps}")


def earlier_starts(run: Run) -> int:
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    return len(environment.get("earlier_starts", []))


def environment_of(project: Path, tools: Path) -> dict[str, str]:
    """Return an environment in which `torchrun` is that of this Python, and sees the project."""
    tools.mkdir(exist_ok=True)
    torchrun = tools / "torchrun"
    torchrun.write_text(f'#!/bin/sh\nexec {sys.executable} -m torch.distributed.run "$@"\n')
    torchrun.chmod(0o755)
    return os.environ | {
        "PATH": f"{tools}:{os.environ['PATH']}",
        "PYTHONPATH": str(project / "src"),
        "OMP_NUM_THREADS": "1",
    }


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
    return port


def misspelt(document: Any, free: Callable[[tuple[Any, ...]], bool]) -> Iterator[tuple[str, Any]]:
    """Return each copy of a document in which one key has a letter too many, and that key's path.

    Args:
        document: Mappings and lists.
        free: Whether the keys of the mapping at this path are the user's own.
    """
    for path in paths_of_keys(document):
        if free(path[:-1]):
            continue
        copy = deepcopy(document)
        parent = copy
        for part in path[:-1]:
            parent = parent[part]
        parent[f"{path[-1]}x"] = parent.pop(path[-1])
        yield "/".join(map(str, path)), copy


def paths_of_keys(document: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Return the path of every key of every mapping."""
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in items:
        if isinstance(document, dict):
            yield (*path, key)
        if isinstance(value, dict | list):
            yield from paths_of_keys(value, (*path, key))
