"""The program for GPU machines: how it judges, what it says, and all of it once on a CPU."""

import ast
import importlib
import json
import os
import subprocess
import sys
import time
from array import array
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from .gpu import rank
from .gpu.__main__ import parse
from .gpu.checks import CHECKS, MOST_PROCESSES, sizes_of
from .gpu.job import HERE, Job, environment
from .gpu.judging import LOWER_PRECISION, accurate, close, same_bits
from .gpu.report import markdown
from .gpu.session import exit_code, run_checks
from .gpu.workplace import CannotRun, Found, RunFailed, Workplace, summarize_times
from .rendering import TEMPLATE
from .runs import Run

GPU = {"name": "H100", "memory_bytes": 80 * 2**30, "compute_capability": "9.0"}
MACHINE: dict[str, Any] = {
    **{"gpus": [], "torch": "2.13.0", "cpu": "a | CPU", "cpu_count": 2, "platform": "Linux"},
    **{"compute_mode": None, "compiler": "cc", "triton": None},
}


def make_run(folder: Path, **changes: Any) -> Run:
    """Write the files of a run of two steps, with two weights; `changes` are to its numbers."""
    folder.mkdir()
    values: dict[str, Any] = {
        "exact": True,
        "loss": 2.0,
        "grad_norm": 1.0,
        "accuracy": 0.99,
        "weight": 1.5,
    }
    values |= {"precision": "no", **changes}
    summary = {
        **{"exact": values["exact"], "optimizer_steps": 2, "test_accuracy": values["accuracy"]},
        "mixed_precision": values["precision"],
    }
    lines = [
        {"split": "train", "step": step, "loss": values["loss"], "grad_norm": values["grad_norm"]}
        for step in (1, 2)
    ]
    header = json.dumps({"weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    data = memoryview(array("f", [values["weight"], 2.0])).tobytes()
    (folder / "summary.json").write_text(json.dumps(summary))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header + data)
    return Run(folder)


def make_workplace(tmp_path: Path, *, steps: int = 200, num_gpus: int = 0) -> Workplace:
    """Return a workplace with a project that waits for ever, or fails with --fail."""
    package = tmp_path / "project" / "src" / "a_run"
    (package / "run").mkdir(parents=True)
    (package / "run" / "speed.py").write_text("peak_flops = None")
    (package / "train.py").write_text(PROGRAM)
    toml = '[project]\ndependencies = ["torch>=2.13"]\n'
    (tmp_path / "project" / "pyproject.toml").write_text(toml)
    (tmp_path / "logs").mkdir()
    machine = {**MACHINE, "gpus": [GPU] * num_gpus}
    return Workplace(tmp_path / "project", tmp_path, tmp_path / "logs", machine, steps)


PROGRAM = """
import sys, time

print("it began", flush=True)
if "--fail" in sys.argv:
    sys.exit(3)
time.sleep(600)
"""


def test_the_same_bits_are_the_same_in_everything(tmp_path: Path) -> None:
    expected = make_run(tmp_path / "expected", grad_norm=float("nan"))

    assert same_bits(make_run(tmp_path / "same", grad_norm=float("nan")), expected) == (
        "the same bits after 2 steps"
    )


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"loss": 2.0000001}, r"train step 1: loss 2.0000001 instead of 2.0"),
        ({"grad_norm": 1.5}, r"train step 1: grad_norm 1.5 instead of 1.0"),
        ({"weight": 1.5000001}, r"not the same bits: model\.safetensors; .*weights 6\.0e-08"),
        ({"accuracy": 0.98}, r"test_accuracy 0.98 instead of 0.99"),
        ({"exact": False}, r"other is not exact, though it was asked for"),
    ],
)
def test_what_is_not_the_same_bits_is_named(
    changes: dict[str, Any], reason: str, tmp_path: Path
) -> None:
    with pytest.raises(AssertionError, match=reason):
        same_bits(make_run(tmp_path / "other", **changes), make_run(tmp_path / "expected"))


@pytest.mark.parametrize(
    ("changes", "steps", "reason"),
    [
        ({"loss": 2.001}, 200, None),
        ({"loss": 2.01}, 200, "first step are 5.0e-03 and 0.0e"),
        ({"loss": float("nan")}, 20, "first step are nan"),
        ({"grad_norm": 2.0}, 20, "first step are 0.0e.00 and 1.0e"),
        ({"accuracy": 0.97}, 200, None),
        ({"accuracy": 0.95}, 200, "accuracy 0.0400 below expected"),
        # Too short to be judged by it.
        ({"accuracy": 0.5}, 20, None),
    ],
)
def test_close_runs_agree_in_their_first_step_and_in_accuracy(
    changes: dict[str, Any], steps: int, reason: str | None, tmp_path: Path
) -> None:
    here = make_workplace(tmp_path, steps=steps)
    run, expected = make_run(tmp_path / "run", **changes), make_run(tmp_path / "expected")
    if reason:
        with pytest.raises(AssertionError, match=reason):
            close(here, run, expected)
    else:
        text, _ = close(here, run, expected)
        assert text.startswith(f"accuracy {run.summary['test_accuracy']:.4f} (")


@pytest.mark.parametrize(("precision", "is_close"), [("bf16", False), ("fp16", True)])
def test_only_the_first_scale_of_fp16_may_overflow(
    precision: str, is_close: bool, tmp_path: Path
) -> None:
    here = make_workplace(tmp_path)
    run = make_run(tmp_path / "run", grad_norm=float("inf"))
    try:
        close(here, run, make_run(tmp_path / "expected"), LOWER_PRECISION[precision])
    except AssertionError:
        assert not is_close
    else:
        assert is_close


def test_a_full_run_must_have_learned(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", accuracy=0.5)
    with pytest.raises(AssertionError, match=r"accuracy 0\.5000 is not over 0\.9"):
        accurate(make_workplace(tmp_path), run)


def raise_(error: Exception) -> Found:
    raise error


def test_every_check_has_its_own_outcome_and_a_failed_one_is_exit_code_1(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    checks = {
        "bad": lambda here: raise_(AssertionError("1 is not 2")),
        "dead": lambda here: raise_(RunFailed("train: exit code 3", "the last line")),
        "odd": lambda here: raise_(KeyError("test_accuracy")),
        "far": lambda here: raise_(CannotRun("it needs two GPUs, and this machine has 1")),
        "good": lambda here: Found("as it should be", {"loss": float("inf")}),
        "other": lambda here: raise_(AssertionError("not to be run")),
    }
    chosen = ["bad", "dead", "odd", "far", "good"]
    outcomes = run_checks(make_workplace(tmp_path), tmp_path, chosen, 60, checks)
    found = {each["name"]: each["outcome"] for each in outcomes}
    printed = capsys.readouterr().out
    written = json.loads((tmp_path / "gpu.json").read_text())
    text = (tmp_path / "gpu.md").read_text()

    assert found == {
        **{"bad": "FAILED", "dead": "FAILED", "odd": "FAILED"},
        **{"far": "cannot run here", "good": "passed", "other": "left out"},
    }
    assert exit_code(outcomes) == 1
    assert exit_code([each for each in outcomes if each["outcome"] != "FAILED"]) == 0
    assert "the last line\n\nFAILED: dead: train: exit code 3" in printed
    assert "KeyError: 'test_accuracy'" in printed and "\nFAILED: 3: bad, dead, odd\n" in printed
    assert "cannot run here: 1: far\n" in printed
    assert "| far | cannot run here | it needs two GPUs, and this machine has 1 |" in text
    assert "| bad | FAILED | 1 is not 2 |" in text and "Left out, by --only: other." in text
    assert [check["name"] for check in written["checks"]] == list(checks)
    assert written["checks"][4]["values"] == {"loss": None}


def test_a_check_of_several_gpus_says_what_is_missing(tmp_path: Path) -> None:
    here = make_workplace(tmp_path, num_gpus=1)
    for name in [name for name in CHECKS if name.endswith("on GPUs")]:
        with pytest.raises(CannotRun, match="it needs two GPUs, and this machine has 1"):
            CHECKS[name](here)
    here.num_gpus = 6
    assert sizes_of(here) == [2, 4]
    here.num_gpus = 16
    assert sizes_of(here) == [2, 4, MOST_PROCESSES]


def test_the_title_names_the_gpus() -> None:
    machine = {**MACHINE, "gpus": [GPU, GPU], "cuda": "13.0"}
    report = {"machine": machine, "started": "2026-11-26T01:00:00", "steps": 200, "remarks": []}
    text = markdown({**report, "checks": [], "runs": {}})

    assert text.startswith("## 2 x H100, 2026-11-26\n")
    assert "80 GiB, compute capability 9.0; a / CPU" in text.replace("a | CPU", "a / CPU")
    assert "CUDA 13.0, cuDNN none" in text


def test_a_summary_of_times_stays_within_them() -> None:
    equal = 56.361731998549665
    for times in ([equal], [equal] * 3, [equal] * 40):
        assert summarize_times(times) == {"step_ms_p5": equal, "step_ms_median": equal}
    assert summarize_times(list(range(101))) == {"step_ms_p5": 5.0, "step_ms_median": 50}


def test_a_folder_that_is_no_project_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as left:
        parse([str(tmp_path)])
    assert left.value.code == 2
    assert "has no src/PACKAGE/train.py" in capsys.readouterr().err


def test_without_a_gpu_it_says_so_and_exits_with_2(tmp_path: Path) -> None:
    """Without torch, too: what is missing is another thing then."""
    here = make_workplace(tmp_path)
    result = subprocess.run(
        [sys.executable, "-m", "tests.gpu", str(here.project), "--output", str(tmp_path / "out")],
        cwd=TEMPLATE,
        capture_output=True,
        text=True,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": ""},
        timeout=120,
    )
    assert result.returncode == 2
    assert "finds no GPU here" in result.stderr or "has no torch" in result.stderr
    assert not (tmp_path / "out").exists()


def test_it_imports_nothing_but_the_standard_library() -> None:
    """What trains has the project's packages; the program itself must start without any."""
    for file in [*HERE.glob("*.py"), HERE.parent / "runs.py"]:
        tree = ast.parse(file.read_text(encoding="utf-8"))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [node.module or ""]
            assert {name.split(".")[0] for name in names} <= sys.stdlib_module_names, file
        at_top = [node for node in tree.body if isinstance(node, ast.ImportFrom)]
        assert not [node for node in at_top if (node.module or "").endswith("rendering")], file


def test_a_job_sees_no_other_launcher_and_no_other_gpus(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = make_workplace(tmp_path, num_gpus=4)
    monkeypatch.setenv("WORLD_SIZE", "8")
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")

    assert here.devices(2) == "4,5"
    given = environment(here.project, here.devices(2))
    assert given["CUDA_VISIBLE_DEVICES"] == "4,5"
    assert not {"WORLD_SIZE", "ACCELERATE_USE_CPU"} & set(given)


def test_ranks_that_share_a_gpu_use_gloo_and_the_first_device(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[tuple[Any, dict[str, Any]]] = []
    dist = SimpleNamespace(
        init_process_group=lambda backend, **named: calls.append((backend, named)),
        get_backend_config=lambda: "cpu:gloo,cuda:gloo",
    )
    monkeypatch.setattr(importlib, "import_module", lambda name: dist)
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    notes: dict[str, Any] = {}
    rank.note_backend(notes, is_shared=False)
    assert os.environ["LOCAL_RANK"] == "1"
    rank.note_backend(notes, is_shared=True)
    dist.init_process_group("nccl", device_id="cuda:0", timeout=1)

    assert calls == [("cpu:gloo,cuda:gloo", {"device_id": None, "timeout": 1})]
    assert (os.environ["LOCAL_RANK"], os.environ["LOCAL_WORLD_SIZE"]) == ("0", "1")
    assert notes == {"backend": "cpu:gloo,cuda:gloo"}


@pytest.mark.torch
def test_a_run_that_fails_or_does_not_end_is_ended_and_shown(tmp_path: Path) -> None:
    here = make_workplace(tmp_path)
    with pytest.raises(RunFailed, match="train --fail: exit code 3") as failed:
        here.run(Job(flags=("--fail",)))
    assert failed.value.output == "it began"
    here.deadline = time.monotonic() + 8
    with pytest.raises(RunFailed, match="train --exact: not done in time") as stopped:
        here.run(Job())
    assert stopped.value.output == "it began"
    # It fails again without a second try.
    started = time.monotonic()
    with pytest.raises(RunFailed):
        here.run(Job())
    assert time.monotonic() - started < 1


@pytest.mark.torch
def test_a_rendered_project_is_compared_on_a_cpu(default_project: Path, tmp_path: Path) -> None:
    only = ["ddp, 2 ranks on a device", "fp16", "fsdp2 on GPUs"]
    words = [str(default_project), "--device", "cpu", "--steps", "3", "--output", str(tmp_path)]
    result = subprocess.run(
        [sys.executable, "-m", "tests.gpu", *words, *[f"--only={name}" for name in only]],
        cwd=TEMPLATE,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    report = json.loads((tmp_path / "gpu.json").read_text(encoding="utf-8"))
    found = {check["name"]: check for check in report["checks"] if check["name"] in only}
    text = (tmp_path / "gpu.md").read_text(encoding="utf-8")

    assert [found[name]["outcome"] for name in only] == ["passed", *["cannot run here"] * 2]
    assert found["fp16"]["text"] == "fp16 needs a GPU"
    assert found["ddp, 2 ranks on a device"]["values"] == {"backend": "cpu:gloo,cuda:gloo"}
    assert {check["name"] for check in report["checks"]} == set(CHECKS)
    assert report["machine"]["torch"] and report["machine"]["python"]
    shared = report["runs"]["reference.ddp --exact 2 ranks on one device"]
    single = report["runs"]["train --exact"]
    assert single["exact"] and single["test_loss"] == shared["test_loss"]
    assert shared["world_size"] == 2 and shared["process_bytes"] > 100e6
    assert 0 < single["step_ms_p5"] <= single["step_ms_median"]
    assert text.startswith("## No GPU: ") and "these figures say nothing of a GPU" in text
    assert "| ddp, 2 ranks on a device | passed | the same bits after 3 steps, " in text
    assert "| `reference.ddp --exact 2 ranks on one device` | " in text
    assert list((tmp_path / "logs").glob("*.txt"))
