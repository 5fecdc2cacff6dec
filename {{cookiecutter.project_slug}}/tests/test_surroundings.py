"""Pipes, signals, file systems, terminals and launchers that are not as one hopes."""

import errno
import multiprocessing
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from accelerate.tracking import LOGGER_TYPE_TO_CLASS
from filelock import FileLock

from my_run.batches import workers
from my_run.batches.loaders import EvaluationLoader
from my_run.checkpoint import atomic
from my_run.checkpoint.data_info import (
    load_data_info,
    save_data_info,
)
from my_run.distributed import signals
from my_run.distributed.devices import find_devices
from my_run.distributed.peers import Peers
from my_run.distributed.program import (
    LAUNCHER_VARIABLES,
    OTHER_WORLD_SIZES,
    read_launcher,
)
from my_run.distributed.signal_watch import WATCH
from my_run.distributed.signals import StopSignals
from my_run.run import environment, folder
from my_run.run.folder import RunFolder
from my_run.run.start import prepare_once
from my_run.run.trackers import Tracker
from my_run.run.trained import TrainedRun
from my_run.settings.errors import (
    RunError,
    SettingError,
)
from my_run.settings.output import write_or_drop

from .launching import (
    PACKAGE,
    TIMEOUT_SECONDS,
    read_metrics,
    read_summary,
    tiny_sources,
)
from .tiny.config import TrainConfig

SHORT = ["--max-steps", "3", "--log-every", "1", "--tracker", "none", "--placement", "cpu"]
NEEDS_POSIX = pytest.mark.skipif(sys.platform == "win32", reason="of POSIX")


def start(
    program: str, *flags: str, before: str = "", after: str = "", **variables: str
) -> subprocess.Popen[str]:
    """Start a program by a shell, as a person would, in a process group of its own."""
    command = f"{before} exec {sys.executable} -m {PACKAGE}.{program} {' '.join(flags)} {after}"
    return subprocess.Popen(
        ["sh", "-c", command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tiny_sources()), **variables},
        start_new_session=True,
    )


def finish(process: subprocess.Popen[str]) -> str:
    try:
        printed, _ = process.communicate(timeout=TIMEOUT_SECONDS)
    finally:
        process.kill()
    return printed


@NEEDS_POSIX
@pytest.mark.parametrize("after", [">/dev/full 2>&1", ">&- 2>&-", "| true", "2>&1 | head -1"])
def test_output_that_cannot_be_written_does_not_end_a_run(after: str, tmp_path: Path) -> None:
    process = start("train", *SHORT, "--run-dir", str(tmp_path / "run"), after=after)
    printed = finish(process)

    assert process.returncode == 0, printed
    assert read_summary(tmp_path / "run")["optimizer_steps"] == 3
    # A file that was opened in place of a closed descriptor would have the messages.
    assert (tmp_path / "run" / ".lock").read_bytes() == b""


@NEEDS_POSIX
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_run_whose_reader_is_gone_stops_with_a_checkpoint(name: str, tmp_path: Path) -> None:
    code = 0 if name == "SIGINT" else 85
    flags = [*SHORT, "--max-steps", "1000", "--stop-exit-code", str(code)]
    flags += ["--run-dir", str(tmp_path)]
    process = start("train", *flags, TINY_SECONDS_PER_BATCH="0.05")
    assert process.stdout is not None
    deadline = time.monotonic() + TIMEOUT_SECONDS
    while not read_metrics(tmp_path) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.stdout.close()
    os.kill(process.pid, signal.Signals[name])

    assert process.wait(timeout=TIMEOUT_SECONDS) == code
    assert read_summary(tmp_path)["stopped_by"] == name
    assert len(list((tmp_path / "checkpoints").glob("step_*"))) == 1


@NEEDS_POSIX
@pytest.mark.parametrize("name", ["SIGTERM", "SIGUSR1", "SIGINT", "SIGHUP"])
def test_a_signal_before_training_ends_the_program_at_once(name: str, tmp_path: Path) -> None:
    number = signal.Signals[name]
    process = start("train", *SHORT, "--run-dir", str(tmp_path / "run"))
    # Python itself catches Ctrl-C from its start.
    while not has_handler(process.pid, signal.SIGTERM):
        time.sleep(0.01)
    os.kill(process.pid, number)
    printed = finish(process)

    assert process.returncode == (130 if number == signal.SIGINT else 143), printed
    assert printed == f"stopped by {number.name}; nothing to save\n"
    assert not (tmp_path / "run").exists()


def has_handler(process: int, number: signal.Signals) -> bool:
    """Tell whether a process catches a signal."""
    status = Path(f"/proc/{process}/status").read_text()
    [caught] = [line.split()[1] for line in status.splitlines() if line.startswith("SigCgt")]
    return bool(int(caught, 16) >> (number - 1) & 1)


@NEEDS_POSIX
@pytest.mark.parametrize("program", ["train", "reference.ddp"])
def test_a_signal_that_is_ignored_at_the_start_stays_ignored(program: str, tmp_path: Path) -> None:
    flags = [*SHORT, "--max-steps", "12", "--run-dir", str(tmp_path)]
    ignored = "trap '' HUP USR1;"
    process = start(program, *flags, before=ignored, TINY_SECONDS_PER_BATCH="0.02")
    while not read_metrics(tmp_path):
        assert process.poll() is None
        time.sleep(0.05)
    if sys.platform != "win32":
        os.killpg(process.pid, signal.SIGHUP)
        os.killpg(process.pid, signal.SIGUSR1)
    printed = finish(process)

    assert process.returncode == 0, printed
    assert read_summary(tmp_path)["optimizer_steps"] == 12


def signals_of(monkeypatch: pytest.MonkeyPatch) -> tuple[StopSignals, list[str]]:
    left: list[str] = []
    monkeypatch.setattr(signals, "leave", lambda number, message: left.append(message))
    monkeypatch.setattr(signals, "GRACE_SECONDS", 0.3)
    monkeypatch.setattr(signals, "REPEATED_SECONDS", 0.1)
    return StopSignals(find_devices(TrainConfig(), "single")), left


@NEEDS_POSIX
@pytest.mark.parametrize("times", [1, 2])
def test_a_run_that_hangs_after_a_signal_is_left(
    times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, left = signals_of(monkeypatch)
    with stop:
        for _ in range(times):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        assert left == []
        time.sleep(0.5)
        assert len(left) == times if times == 1 else left
    assert "no step ended within" in left[0] and "latest complete checkpoint is kept" in left[0]


@NEEDS_POSIX
def test_a_signal_that_arrives_twice_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, left = signals_of(monkeypatch)
    monkeypatch.setattr(signals, "GRACE_SECONDS", 60.0)
    with stop:
        # As of a launcher and a scheduler, or of a kernel and a shell; a step takes longer.
        for _ in range(2):
            signal.raise_signal(signal.SIGTERM)
            time.sleep(0.05)
        time.sleep(0.5)
        assert left == []


@NEEDS_POSIX
def test_a_run_is_left_although_nobody_reads_its_last_line() -> None:
    code = f"from {PACKAGE}.distributed.signal_watch import leave; leave(15, 'x' * 10**6)"
    command = [sys.executable, "-c", code]
    sources = os.environ | {"PYTHONPATH": str(tiny_sources())}
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=sources) as process:
        try:
            assert process.wait(timeout=TIMEOUT_SECONDS / 4) == 143
        finally:
            process.kill()


@NEEDS_POSIX
def test_a_full_pipe_that_does_not_block_loses_no_line() -> None:
    if sys.platform == "win32":
        pytest.skip("of POSIX")
    read, write = os.pipe()
    os.set_blocking(write, False)
    data = b"line\n" * 100_000
    writing = threading.Thread(target=write_or_drop, args=(write, data), daemon=True)
    writing.start()
    found = b""
    while len(found) < len(data) and (writing.is_alive() or select.select([read], [], [], 0)[0]):
        found += os.read(read, 65536)
    assert found == data


@NEEDS_POSIX
@pytest.mark.parametrize(
    ("target", "code"), [(">/dev/full", 1), (">/dev/full 2>&1", 1), ("| true", 0), (">&-", 0)]
)
def test_results_that_were_not_written_are_an_error(target: str, code: int) -> None:
    lines = f"from {PACKAGE}.settings.errors import check_printed, errors_in_one_line"
    lines += "\nwith errors_in_one_line(): print('result'); check_printed()"
    command = f'({sys.executable} -c "$LINES"; echo $? >&3) 3>&2 {target}'
    done = subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(tiny_sources()), "LINES": lines},
        timeout=TIMEOUT_SECONDS,
    )
    *printed, found = done.stderr.splitlines()
    assert int(found) == code, done.stderr
    is_said = code and "2>" not in target
    reason = "standard output cannot be written: No space left on device; results are lost"
    assert printed == ([f"error: {reason}"] if is_said else [])


@NEEDS_POSIX
def test_the_signal_that_ends_a_job_after_a_notice_is_no_second_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(signals, "ECHO_SECONDS", 0.05)
    stop, left = signals_of(monkeypatch)
    with stop:
        for name in ("SIGUSR1", "SIGTERM"):
            signal.raise_signal(signal.Signals[name])
            time.sleep(0.1)
        stop.agree()
        time.sleep(0.4)
    assert (stop.reason, left) == ("SIGUSR1", [])


@NEEDS_POSIX
def test_a_run_that_ends_its_step_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, left = signals_of(monkeypatch)
    with stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.1)
        stop.agree()
        time.sleep(0.4)
    assert (stop.reason, left) == ("SIGTERM", [])


@NEEDS_POSIX
def test_a_run_that_hangs_before_its_ranks_agree_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, left = signals_of(monkeypatch)
    stop._group = object()
    work = SimpleNamespace(wait=lambda: None)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda *_, **__: work)
    with stop:
        signal.raise_signal(signal.SIGTERM)
        time.sleep(0.1)
        stop.agree()  # The other rank knows of the signal after the next step only.
        assert (stop.reason, left) == (None, [])
        time.sleep(0.6)
        assert len(left) == 1


FORKS = """


def fork_and_end():
    import multiprocessing, time
    process = multiprocessing.get_context("fork").Process(target=time.sleep, args=(60,))
    process.start()
    time.sleep(0.2)
    process.terminate()
    process.join(10)
    assert process.exitcode == -15, process.exitcode
"""
IN_PREPARE = "\n\ndef prepare(config):\n    fork_and_end()\n"
IN_SUMMARIZE = """

summarize_without = summarize


def summarize(scores):
    fork_and_end()
    return summarize_without(scores)
"""


@NEEDS_POSIX
@pytest.mark.parametrize(
    ("file", "calling"),
    [("data.py", IN_PREPARE), ("model.py", IN_SUMMARIZE)],
    ids=["prepare", "summarize"],
)
def test_the_end_of_a_forked_process_is_not_that_of_the_run(
    file: str, calling: str, tmp_path: Path
) -> None:
    flags = [*SHORT, "--eval-every", "1", "--run-dir", str(tmp_path / "run")]
    changed = changed_sources(tmp_path, file, FORKS + calling)
    process = start("train", *flags, PYTHONPATH=changed)
    printed = finish(process)

    assert process.returncode == 0, printed
    assert read_summary(tmp_path / "run")["stopped_by"] is None


DISK_IS_FULL_AT_THE_END = """

write_before = write_json


def write_json(file, values):
    if file.name == "summary.json":
        raise OSError(28, "No space left on device", str(file))
    write_before(file, values)
"""


def test_results_that_rank_0_cannot_write_are_one_line_for_all(tmp_path: Path) -> None:
    flags = [*SHORT, "--num-processes", "2", "--run-dir", str(tmp_path / "run")]
    changed = changed_sources(tmp_path, "checkpoint/atomic.py", DISK_IS_FULL_AT_THE_END)
    process = start("reference.ddp", *flags, PYTHONPATH=changed)
    printed = finish(process)

    assert process.returncode == 1, printed
    assert "Traceback" not in printed
    [line] = [line for line in printed.splitlines() if line.startswith("error: ")]
    assert "summary.json: No space left on device" in line, printed


def changed_sources(folder: Path, file: str, code: str) -> str:
    """Return a copy of the sources with code at the end of a file."""
    sources = shutil.copytree(tiny_sources(), folder / "sources")
    with (sources / PACKAGE / file).open("a", encoding="utf-8") as end:
        end.write(code)
    return str(sources)


@NEEDS_POSIX
def test_a_run_whose_evaluation_goes_on_is_not_left(monkeypatch: pytest.MonkeyPatch) -> None:
    stop, left = signals_of(monkeypatch)
    with stop:
        signal.raise_signal(signal.SIGTERM)
        for _ in range(8):
            time.sleep(0.1)
            WATCH.progress()
        assert left == []
        time.sleep(0.5)
        assert len(left) == 1


class Broken(torch.utils.data.Dataset[torch.Tensor]):
    """A data set that a worker reads until it is killed, or for ever."""

    def __init__(self, *, is_killed: bool) -> None:
        self.is_killed = is_killed

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> torch.Tensor:
        if self.is_killed:
            os.kill(os.getpid(), 9)
        time.sleep(TIMEOUT_SECONDS)
        return torch.zeros(1)


@NEEDS_POSIX
@pytest.mark.parametrize(("is_killed", "reason"), [(True, "killed|exited"), (False, "timed out")])
def test_a_worker_that_sends_nothing_is_one_line(
    is_killed: bool, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workers, "TIMEOUT_SECONDS", 2)
    config = TrainConfig(num_workers=1)
    dataset = Broken(is_killed=is_killed)
    batches = iter(EvaluationLoader(dataset, None, config, find_devices(config, "single")))
    with pytest.raises(RunError, match=f"({reason}).*; try --num-workers 0.*/dev/shm"):
        next(batches)
    for process in multiprocessing.active_children():
        process.kill()


@NEEDS_POSIX
def test_workers_that_could_not_be_reached_are_refused(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 90)
    folder.mkdir()
    flags = ["--num-workers", "1", "--run-dir", str(tmp_path / "run")]
    process = start("train", *SHORT, *flags, TMPDIR=str(folder))
    printed = finish(process)

    assert process.returncode == 2
    [line] = printed.splitlines()
    assert "AF_UNIX path too long" in line and "--num-workers 0" in line
    assert not (tmp_path / "run").exists()


def test_data_is_prepared_where_a_lock_cannot_be_had(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # The file is another user's.
    monkeypatch.setattr(FileLock, "acquire", failing(errno.EACCES))
    prepared: list[TrainConfig] = []
    prepare_once(prepared.append, TrainConfig())
    assert len(prepared) == 1 and "set TMPDIR" in capsys.readouterr().err


def failing(number: int) -> Callable[..., Any]:
    def fail(*arguments: object, **options: object) -> None:
        raise OSError(number, os.strerror(number))

    return fail


@pytest.mark.parametrize("number", [errno.EINVAL, errno.ENOTSUP, errno.EPERM])
def test_what_a_file_system_need_not_offer_is_said_once(
    number: int,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(atomic, "_said", set())
    monkeypatch.setattr(os, "fsync", failing(number))
    monkeypatch.setattr(Path, "chmod", failing(number))
    for name in ("a", "b"):
        atomic.write_tensors(tmp_path / name, {"w": torch.ones(2)})
        atomic.write_atomically(tmp_path / f"{name}.txt", "text")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "a.txt", "b", "b.txt"]
    lines = capsys.readouterr().err.splitlines()
    assert [line.partition(" (")[0].partition(", so")[0] for line in lines] == [
        f"this file system cannot {what}"
        for what in ("set the mode of files", "sync files", "sync folders")
    ]


def test_a_write_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "fsync", failing(errno.EIO))
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        atomic.write_atomically(tmp_path / "a", "text")


# Python runs it before anything else: folders that cannot be synced, files without modes.
POOR_FILE_SYSTEM = """
import errno, os, stat
real = os.fsync
def fsync(descriptor):
    if stat.S_ISDIR(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "Invalid argument")
    real(descriptor)
def chmod(*arguments, **options):
    raise PermissionError(errno.EPERM, "Operation not permitted")
os.fsync, os.chmod = fsync, chmod
"""


@pytest.mark.parametrize("program", ["train", "reference.ddp"])
def test_a_run_on_a_poor_file_system_is_complete_and_can_be_resumed(
    program: str, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(POOR_FILE_SYSTEM, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(tiny_sources())])
    flags = [*SHORT, "--checkpoint-every", "2", "--run-dir", str(tmp_path / "run")]
    for more, words in (([], 2), (["--resume", "must", "--max-steps", "5"], 2)):
        process = start(program, *flags, *more, PYTHONPATH=path)
        printed = finish(process)
        assert process.returncode == 0, printed
        assert printed.count("this file system cannot") == words, printed
    assert read_summary(tmp_path / "run")["optimizer_steps"] == 5


NO_TEMPORARY_FOLDER = """
import tempfile
tempfile._candidate_tempdir_list = lambda: ["/nonexistent"]
"""


def test_a_machine_without_a_temporary_folder_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "sitecustomize.py").write_text(NO_TEMPORARY_FOLDER, encoding="utf-8")
    path = os.pathsep.join([str(tmp_path), str(tiny_sources())])
    process = start("train", *SHORT, "--run-dir", str(tmp_path / "run"), PYTHONPATH=path)
    [line] = finish(process).splitlines()

    assert process.returncode == 2
    assert "No usable temporary directory" in line and "set TMPDIR" in line


def test_a_file_system_without_locks_is_used(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setattr(FileLock, "acquire", failing(errno.ENOLCK))
    config = TrainConfig(run_dir=tmp_path / "run")
    with RunFolder(config, find_devices(config, "single")) as run_folder:
        assert (run_folder.path / "config.yaml").exists()
    assert "this file system has no locks" in capsys.readouterr().err


def test_a_folder_that_takes_no_checkpoint_fails_before_training(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = TrainConfig(run_dir=tmp_path / "run")
    run_folder = RunFolder(config, find_devices(config, "single"))
    monkeypatch.setattr(folder, "try_checkpoint", failing(errno.ENOSPC))
    with pytest.raises(SettingError, match="cannot be written: No space left"):
        run_folder.__enter__()
    run_folder.release()
    assert not (tmp_path / "run" / "config.yaml").exists()


def test_files_that_a_run_does_not_write_may_be_in_its_folder(tmp_path: Path) -> None:
    (tmp_path / "lost+found").mkdir()
    (tmp_path / "slurm-17.out").write_text("a job")
    config = TrainConfig(run_dir=tmp_path)
    devices = find_devices(config, "single")
    with RunFolder(config, devices):
        pass
    assert (tmp_path / "lost+found").is_dir() and (tmp_path / "slurm-17.out").exists()
    (tmp_path / "config.yaml").unlink()
    with pytest.raises(SettingError, match=r"holds no run, but .*environment\.json, .*overwrite"):
        RunFolder(config, devices)


def test_names_that_cannot_be_written_are_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"run_dir \('.*a\\udcffb'\) is not valid UTF-8"):
        TrainConfig(run_dir=tmp_path / "a\udcffb")
    with pytest.raises(SettingError, match=r"files .*is not valid UTF-8"):
        TrainConfig(files=(tmp_path / "ok", tmp_path / "a\udcffb"))
    config = TrainConfig(run_dir=tmp_path / ("x" * 300))
    with pytest.raises(SettingError, match=r"run_dir .*: File name too long; try another"):
        RunFolder(config, find_devices(config, "single"))


def test_names_of_the_data_that_are_not_utf8_are_kept(tmp_path: Path) -> None:
    info = {"classes": ["a\udcff", "日本", "[bold]"]}
    save_data_info(tmp_path, info)
    assert load_data_info(tmp_path) == info


class FakeTracker:
    """A tracker that fails on demand, as MLflow does on a name, or a server that is gone."""

    requires_logging_directory = False
    fails_in = ""
    values: dict[str, float]

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._act("init")

    def start(self) -> None: ...

    def store_init_configuration(self, settings: dict[str, Any]) -> None: ...

    def log(self, values: dict[str, float], step: int) -> None:
        self._act("log")
        type(self).values = values

    def finish(self) -> None:
        self._act("finish")

    def _act(self, name: str) -> None:
        if self.fails_in == name:
            raise ConnectionError("no answer\nat all")

    @property
    def tracker(self) -> Any:
        return SimpleNamespace(info=SimpleNamespace(run_id="1"))


@pytest.fixture
def fake_tracker(monkeypatch: pytest.MonkeyPatch) -> type[FakeTracker]:
    monkeypatch.setitem(LOGGER_TYPE_TO_CLASS, "mlflow", FakeTracker)
    monkeypatch.setattr(FakeTracker, "fails_in", "")
    return FakeTracker


def make_tracker(run_dir: Path) -> Tracker:
    return Tracker(TrainConfig(tracker="mlflow"), run_dir, is_main_process=True, first_step=1)


@pytest.mark.parametrize("fails_in", ["log", "finish"])
def test_a_tracker_that_fails_is_a_warning(
    fails_in: str,
    fake_tracker: type[FakeTracker],
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    tracker = make_tracker(tmp_path)
    fake_tracker.fails_in = fails_in
    for step in (1, 2):
        tracker.log({"loss": 1.0}, step)
    tracker.finish()
    [line] = capsys.readouterr().err.splitlines()
    assert "tracker mlflow failed (ConnectionError: no answer at all)" in line


def test_a_tracker_that_cannot_start_is_refused(
    fake_tracker: type[FakeTracker], tmp_path: Path
) -> None:
    fake_tracker.fails_in = "init"
    with pytest.raises(SettingError, match=r"tracker mlflow cannot start: Conn.*--tracker none"):
        make_tracker(tmp_path)


def test_mlflow_gets_names_that_it_takes(fake_tracker: type[FakeTracker], tmp_path: Path) -> None:
    make_tracker(tmp_path).log({"validation/acc@1 [%]": 1.0}, 1)
    assert fake_tracker.values == {"validation/acc_1 ___": 1.0}


@pytest.mark.parametrize("name", ["x[/y]", "a[bold]b"])
def test_brackets_in_a_path_are_no_markup(name: str, tmp_path: Path) -> None:
    process = start("train", *SHORT, "--run-dir", f"'{tmp_path / name}'", COLUMNS="300")
    printed = finish(process)

    assert process.returncode == 0, printed
    assert f"{tmp_path / name}/" in printed


def test_a_log_has_its_lines_although_color_is_forced(tmp_path: Path) -> None:
    process = start("train", *SHORT, "--run-dir", str(tmp_path), FORCE_COLOR="1")
    printed = finish(process)

    assert process.returncode == 0
    assert [line.split()[1] for line in printed.splitlines() if "train  " in line] == [
        *("1/3", "2/3", "3/3")
    ]


def test_a_path_is_that_of_where_the_command_was_typed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    typed = Path.cwd()
    monkeypatch.chdir(tmp_path)
    config = TrainConfig(run_dir=Path("runs/a"), files=(Path("b"),))
    assert (config.run_dir, config.files) == (typed / "runs/a", (typed / "b",))
    assert TrainedRun(run_dir=Path("runs/a")).run_dir == typed / "runs/a"


def test_code_that_git_does_not_track_has_no_commit(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for command in (["init", "-q"], ["commit", "-q", "--allow-empty", "-m", "x"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    (tmp_path / "site").mkdir()
    code = environment.describe_code(tmp_path / "site")
    assert code["git_commit"] is None and "not tracked" in code["git_is_missing_because"]


def test_the_repository_of_another_user_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "a.py").touch()
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "x"]):
        identity = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        subprocess.run(["git", "-C", str(tmp_path), *identity, *command], check=True)
    before = environment._environment_for_git
    other = {"GIT_TEST_ASSUME_DIFFERENT_OWNER": "1"}
    monkeypatch.setattr(environment, "_environment_for_git", lambda: before() | other)
    code = environment.describe_code(tmp_path)
    assert len(code["git_commit"]) == 40 and code["git_is_clean"]


def test_a_repository_without_a_commit_says_so(tmp_path: Path) -> None:
    (tmp_path / "a.py").touch()
    for command in (["init", "-q"], ["add", "."]):
        subprocess.run(["git", "-C", str(tmp_path), *command], check=True)
    code = environment.describe_code(tmp_path)
    assert code["git_is_clean"] is None and "no commit yet" in code["git_is_missing_because"]


@NEEDS_POSIX
def test_a_git_that_cannot_be_run_is_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "git").write_bytes(b"\x7fELF of another machine")
    (tmp_path / "git").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "git failed" in environment.describe_code(Path.cwd())["git_is_missing_because"]


@pytest.fixture
def no_launcher(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (*LAUNCHER_VARIABLES, *OTHER_WORLD_SIZES):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    "variables",
    [
        {"WORLD_SIZE": "1"},
        {"WORLD_SIZE": "", "RANK": "", "LOCAL_RANK": ""},
        {"WORLD_SIZE": "1", "RANK": "0", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"},
        {"OMPI_COMM_WORLD_SIZE": "1"},
    ],
)
def test_one_process_is_one_process_whatever_says_so(
    variables: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    devices = find_devices(TrainConfig(placement="cpu"))
    assert (devices.strategy, devices.world_size) == ("single", 1)
    assert not set(os.environ) & {*LAUNCHER_VARIABLES, *OTHER_WORLD_SIZES}


@pytest.mark.usefixtures("no_launcher")
@pytest.mark.parametrize(
    ("variables", "reason"),
    [
        ({"WORLD_SIZE": "two"}, r"WORLD_SIZE \('two'\) is not a number; unset it"),
        ({"WORLD_SIZE": "2"}, "WORLD_SIZE is 2 and RANK is not set; start with torchrun"),
        ({"WORLD_SIZE": "2", "RANK": "5"}, r"RANK \(5\) must be from 0 to WORLD_SIZE - 1 \(1\)"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, r"RANK \(-1\) must be from 0"),
        ({"WORLD_SIZE": "-2", "RANK": "0"}, r"RANK \(0\) must be from 0 to WORLD_SIZE - 1 \(-3\)"),
        ({"WORLD_SIZE": "2", "RANK": "0"}, "WORLD_SIZE is 2 and MASTER_ADDR is not set; start"),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, "OMPI_COMM_WORLD_SIZE is 2, and mpirun is not supported"),
        ({"PMI_SIZE": "4"}, "PMI_SIZE is 4, and mpirun is not supported"),
    ],
)
def test_a_launcher_that_cannot_be_is_one_line(
    variables: dict[str, str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(SettingError, match=reason):
        read_launcher()
        Peers().join(1)


@pytest.mark.usefixtures("no_launcher")
def test_torchrun_may_start_one_process(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", "1", "-m", f"{PACKAGE}.train", *SHORT]
    sources = os.environ | {"PYTHONPATH": str(tiny_sources())}
    done = subprocess.run(
        [*command, "--run-dir", str(tmp_path)],
        env=sources,
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    summary = read_summary(tmp_path)
    assert (summary["placement"], summary["world_size"]) == ("single", 1)


# What the process group of Accelerate has, on a CPU.
SHOW_TIMEOUT = """
import sys
import torch
import torch.distributed as dist
from my_run.config import TrainConfig
from my_run.distributed.accelerator import (
    make_accelerator,
)
from my_run.distributed.devices import find_devices
from my_run.distributed.process_group import (
    leave_process_group,
)

make_accelerator(find_devices(TrainConfig(placement="cpu")), "no")
backend = dist.group.WORLD._get_backend(torch.device("cpu"))
sys.stdout.write(f"{backend.options._timeout.total_seconds()} seconds\\n")
leave_process_group()
"""


def test_the_timeout_reaches_the_process_group(tmp_path: Path) -> None:
    (tmp_path / "show.py").write_text(SHOW_TIMEOUT, encoding="utf-8")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    done = subprocess.run(
        [*command, "--nproc-per-node", "2", str(tmp_path / "show.py")],
        env=os.environ | {"PYTHONPATH": str(tiny_sources())},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("601.0 seconds\n") == 2, done.stdout
