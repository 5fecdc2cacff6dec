"""The commands of the project's README for two machines, typed on two machines of a network."""

import json
import re
import shlex
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from ..runs import Run, assert_same_bits
from .conftest import ENDLESS, FLAGS, STEPS, Record
from .launchers import Launcher, ends_of, wait_until
from .network import ADDRESSES, MACHINES, cut_off, kill_all_on, machines

HEADING = "## Two machines without a scheduler"
# The commands by what they start; a machine of the network has no GPUs to count.
COMMANDS = ("static", "c10d", "accelerate", "elastic")
STRICT = COMMANDS[:3]
FIRST, SECOND = MACHINES
# More than any of the waits that the commands ask for.
END_SECONDS, LATE_SECONDS = 200.0, 5.0

Launch = Callable[..., list[Launcher]]


def commands_of(project: Path) -> dict[str, str]:
    """Return the README's commands by what they start."""
    readme = (project / "README.md").read_text(encoding="utf-8")
    section = readme.split(f"{HEADING}\n", 1)[1].split("\n## ", 1)[0]
    lines = "\n".join(re.findall(r"```\n(.*?)```", section, re.DOTALL)).replace("\\\n", " ")
    commands = {}
    for line in filter(None, lines.splitlines()):
        words = shlex.split(line)
        if "accelerate" in words:
            commands["accelerate"] = line
        elif "--max-restarts" in words:
            commands["elastic"] = line
        else:
            commands["c10d" if "--rdzv-backend" in words else "static"] = line
    assert set(commands) == set(COMMANDS)
    return commands


def typed(command: str, machine: str, name: str, *flags: str, address: str) -> list[str]:
    """Fill in the placeholders, as a user would on this machine."""
    assert "ADDRESS" in command and "runs/NAME" in command
    words = shlex.split(command.replace("ADDRESS", address).replace("runs/NAME", f"runs/{name}"))
    for flag in ("--node-rank", "--machine_rank"):
        if flag in words:
            words[words.index(flag) + 1] = str(MACHINES.index(machine))
    if "--nproc-per-node" in words:
        words[words.index("--nproc-per-node") + 1] = "1"
    return [*(["env"] if "=" in words[0] else []), *words, *FLAGS, *flags]


@pytest.fixture(scope="module")
def network() -> Iterator[None]:
    with machines():
        yield


@pytest.fixture
def launch(network: None, small_project: Path, tmp_path: Path) -> Iterator[Launch]:
    """A function that types a command of the README on one machine, or on both."""

    def launch_one(
        command: str,
        *flags: str,
        machines: Sequence[str] = MACHINES,
        is_private: bool = False,
        address: str = ADDRESSES[FIRST],
        before: Sequence[str] = (),
    ) -> list[Launcher]:
        text = commands_of(small_project)[command]
        started = []
        for machine in machines:
            words = [*before, *typed(text, machine, tmp_path.name, *flags, address=address)]
            is_own = is_private and machine == SECOND
            disk = tmp_path / machine
            started.append(Launcher(machine, words, small_project, disk, is_own=is_own))
        return started

    yield launch_one
    for machine in MACHINES:
        kill_all_on(machine)


@pytest.fixture
def run(small_project: Path, tmp_path: Path) -> Run:
    return Run(small_project / "runs" / tmp_path.name)


def steps_of(run: Run) -> int:
    file = run.folder / "metrics.jsonl"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def wait_for_steps(run: Run, steps: int, *launchers: Launcher) -> None:
    def is_reached() -> bool:
        for launcher in launchers:
            assert launcher.process.poll() is None, launcher.printed[-4000:]
        return steps_of(run) >= steps

    wait_until(is_reached, f"{run.folder} did not reach step {steps}")


def hosts_of(run: Run) -> list[str]:
    """Return the machines of the latest start, that of rank 0 first."""
    environment = json.loads((run.folder / "environment.json").read_text(encoding="utf-8"))
    return [machine["host"] for machine in environment["machines"]]


def starts_of(run: Run) -> int:
    """Return how often a run was started."""
    file = run.folder / "environment.json"
    if not file.exists():
        return 0
    earlier = json.loads(file.read_text(encoding="utf-8")).get("earlier_starts", [])
    return 1 + len(earlier)


@pytest.mark.parametrize("command", STRICT)
@pytest.mark.parametrize("late", MACHINES)
def test_two_machines_end_in_the_bits_of_one_process(
    launch: Launch, run: Run, undisturbed: Run, record: Record, command: str, late: str
) -> None:
    """One starts late; the second has a disk of its own if it is the late one."""
    [early] = set(MACHINES) - {late}
    launchers = launch(command, *STEPS, machines=[early])
    time.sleep(LATE_SECONDS)
    launchers += launch(command, *STEPS, machines=[late], is_private=late == SECOND)
    start = time.monotonic()
    wait_for_steps(run, 1, *launchers)
    record(f"{command}: {late} starts {LATE_SECONDS:.0f} s late; its first step after", start)
    for launcher, (code, _) in zip(launchers, ends_of(launchers, END_SECONDS), strict=True):
        assert code == 0, launcher.printed[-4000:]

    assert (run.summary["placement"], run.summary["world_size"]) == ("ddp", 2)
    # The first machine writes, and the second leaves nothing on a disk of its own.
    assert hosts_of(run) == list(MACHINES)
    assert_same_bits(run, undisturbed)
    assert not any((launchers[1].disk / "runs").iterdir())


# Another /etc/hosts for a machine: as Debian makes it, and one that knows no name.
OTHER_HOSTS = {
    "Debian's": r'sed "/ $(hostname)\$/d" /etc/hosts; echo "127.0.1.1 $(hostname)"',
    "no": "echo 127.0.0.1 localhost",
}


def with_hosts(name: str) -> list[str]:
    """Return the words before a command that give the machine other names."""
    new = f'{{ {OTHER_HOSTS[name]}; }} > "$TMPDIR/hosts" && mount --bind "$TMPDIR/hosts" /etc/hosts'
    return ["bash", "-c", f'{new} && exec "$@"', "names"]


@pytest.mark.parametrize("hosts", OTHER_HOSTS)
def test_an_interface_is_named_where_names_do_not_lead_there(
    launch: Launch, run: Run, undisturbed: Run, hosts: str
) -> None:
    before = [*with_hosts(hosts), "env", "GLOO_SOCKET_IFNAME=uplink"]
    launchers = launch("static", *STEPS, before=before)
    for launcher, (code, _) in zip(launchers, ends_of(launchers, END_SECONDS), strict=True):
        assert code == 0, launcher.printed[-4000:]

    assert_same_bits(run, undisturbed)


def test_c10d_needs_the_machines_own_names(launch: Launch, record: Record) -> None:
    start = time.monotonic()
    launchers = launch("c10d", *STEPS, before=with_hosts("no"))
    for launcher, (code, end) in zip(launchers, ends_of(launchers, END_SECONDS), strict=True):
        assert code == 1 and "socket.gaierror" in launcher.printed.splitlines()[-1]
        record(f"c10d: its own name is unknown; {launcher.machine} exits with 1", start, end)


@pytest.mark.parametrize(
    ("command", "what", "machine"),
    [
        ("static", "process", SECOND),
        ("static", "machine", SECOND),
        ("static", "machine", FIRST),
        ("accelerate", "process", SECOND),
        ("c10d", "process", FIRST),
        ("c10d", "machine", FIRST),
    ],
)
def test_what_is_lost_ends_both_machines(
    launch: Launch, run: Run, record: Record, command: str, machine: str, what: str
) -> None:
    launchers = launch(command, *ENDLESS)
    wait_for_steps(run, 8, *launchers)
    lost = launchers[MACHINES.index(machine)]
    if what == "process":
        lost.kill_worker()
    else:
        kill_all_on(machine)
    start = time.monotonic()
    ends = ends_of(launchers, END_SECONDS)
    for launcher, (code, end) in zip(launchers, ends, strict=True):
        row = f"{command}: {what} of {machine} lost; {launcher.machine} exits with {code}"
        record(row, start, end)
        if what == "process" or launcher is not lost:
            assert code == 1, launcher.printed[-4000:]
        assert launcher.workers == []
    if what == "process":
        assert "SIGKILL" in lost.printed
    if machine == SECOND:
        assert f"lost rank 1 on {SECOND}: " in launchers[0].printed
    # Saved every fifth step, in a thread.
    latest = max(folder.name for folder in (run.folder / "checkpoints").glob("step_????????"))
    assert int(latest.removeprefix("step_")) >= steps_of(run) - 10


@pytest.mark.parametrize("command", ["static", "c10d"])
def test_a_signal_on_the_first_machine_saves_and_ends_both(
    launch: Launch, run: Run, record: Record, command: str
) -> None:
    launchers = launch(command, *ENDLESS)
    wait_for_steps(run, 8, *launchers)
    launchers[0].process.terminate()
    start = time.monotonic()
    ends = ends_of(launchers, END_SECONDS)
    for launcher, (code, end) in zip(launchers, ends, strict=True):
        record(f"{command}: SIGTERM on {FIRST}; {launcher.machine} exits with {code}", start, end)
    assert run.summary["stopped_by"] == "SIGTERM"
    assert (run.folder / "checkpoints" / f"step_{run.summary['optimizer_steps']:08}").exists()


def test_training_ends_without_a_killed_launcher(
    launch: Launch, run: Run, undisturbed: Run, record: Record
) -> None:
    """The processes of a launcher that is killed train on, if it holds no store."""
    first, second = launch("static", *STEPS)
    wait_for_steps(run, 8, first, second)
    second.process.kill()
    wait_until(lambda: (run.folder / "summary.json").exists(), "the end of training")
    assert_same_bits(run, undisturbed)
    # It waits for the other launcher, for five minutes.
    time.sleep(5)
    assert first.process.poll() is None


def test_a_killed_launcher_of_the_first_machine_ends_both_under_c10d(
    launch: Launch, run: Run, record: Record
) -> None:
    first, second = launch("c10d", *ENDLESS)
    wait_for_steps(run, 8, first, second)
    first.process.kill()
    start = time.monotonic()
    [_, (code, end)] = ends_of([first, second], END_SECONDS)
    record(f"c10d: launcher of {FIRST} killed; {SECOND} exits with {code}", start, end)
    assert code == 1
    wait_until(lambda: first.workers + second.workers == [], "the end of the processes", 30)
    record("c10d: ... and its processes after", start)


@pytest.mark.parametrize("what", ["process", "machine"])
def test_an_elastic_run_resumes_to_the_same_bits(
    launch: Launch, run: Run, undisturbed: Run, record: Record, what: str
) -> None:
    launchers = launch("elastic", *STEPS)
    first, second = launchers
    wait_for_steps(run, 8, *launchers)
    if what == "process":
        second.kill_worker()
    else:
        kill_all_on(SECOND)
        launchers = [first]
    steps, start = steps_of(run), time.monotonic()
    wait_until(lambda: starts_of(run) == 2, "a second start")
    wait_for_steps(run, steps + 1, *launchers)
    record(f"elastic: {what} of {SECOND} lost; first new step after", start)
    for launcher, (code, _) in zip(launchers, ends_of(launchers, END_SECONDS), strict=True):
        assert code == 0, launcher.printed[-4000:]

    assert run.summary["world_size"] == (2 if what == "process" else 1)
    assert_same_bits(run, undisturbed)


def test_an_elastic_run_takes_a_machine_in(launch: Launch, run: Run, record: Record) -> None:
    [first] = launch("elastic", *ENDLESS, machines=[FIRST])
    wait_for_steps(run, 8, first)
    [second] = launch("elastic", *ENDLESS, machines=[SECOND])
    start = time.monotonic()
    wait_until(lambda: starts_of(run) == 2, "a second start")
    steps = steps_of(run)
    wait_for_steps(run, steps + 1, first, second)
    record(f"elastic: {SECOND} joins a run; its first step on both after", start)
    assert hosts_of(run) == list(MACHINES)


@pytest.mark.slow
@pytest.mark.parametrize("command", STRICT)
def test_a_cut_network_is_one_line_on_each_machine(
    launch: Launch, run: Run, record: Record, command: str
) -> None:
    """Nobody is told: packets are lost, as when a machine has no power, and no connection ends."""
    launchers = launch(command, *ENDLESS)
    wait_for_steps(run, 8, *launchers)
    start = time.monotonic()
    with cut_off(SECOND):
        for launcher in reversed(launchers):
            launcher.wait_for_end_of_workers(180)
            record(f"{command}: network cut; process of {launcher.machine} ends", start)
        for launcher, (code, _) in zip(launchers, ends_of(launchers, 40), strict=True):
            record(f"{command}: ... and the launcher of {launcher.machine}", start)
            # With c10d, the second launcher waits for the first machine until it is ended.
            is_ended = command == "c10d" and launcher.machine == SECOND
            assert code in ((1, -signal.SIGTERM, -signal.SIGKILL) if is_ended else (1,))
    for launcher, cause in zip(
        launchers, ("lost rank 1 on node-b: ", "no answer from "), strict=True
    ):
        [line] = [line for line in launcher.printed.splitlines() if ": error: " in line]
        assert line.startswith(f"{launcher.machine}: error: {cause}")


@pytest.mark.slow
def test_a_network_that_comes_back_ends_nothing(launch: Launch, run: Run, record: Record) -> None:
    launchers = launch("static", *ENDLESS)
    wait_for_steps(run, 8, *launchers)
    with cut_off(SECOND):
        time.sleep(40)
        steps, start = steps_of(run), time.monotonic()
    wait_for_steps(run, steps + 20, *launchers)
    record("static: network back after 40 s; 20 steps after", start)


@pytest.mark.slow
def test_an_elastic_run_goes_on_without_a_machine_that_has_no_power(
    launch: Launch, run: Run, record: Record
) -> None:
    first, second = launch("elastic", *ENDLESS)
    wait_for_steps(run, 8, first, second)
    start = time.monotonic()
    with cut_off(SECOND):
        kill_all_on(SECOND)
        wait_until(lambda: starts_of(run) == 2, "a second start", 180)
        wait_for_steps(run, steps_of(run) + 1, first)
        record(f"elastic: power of {SECOND} lost; first new step after", start)
    assert "node-a: error: lost rank 1 on node-b: " in first.printed
