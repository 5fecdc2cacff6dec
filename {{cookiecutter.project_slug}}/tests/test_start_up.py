"""What a command imports before it does its work: nothing that it does not use."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from .launching import PACKAGE, TIMEOUT_SECONDS, tiny_sources

# Of these, none but those that the command uses. What torch imports with its first step, such as
# its compiler and FSDP, is not ours to choose.
HEAVY = {"matplotlib", "tensorboard", "torch.distributed.checkpoint"}


def run(program: str, *flags: str) -> tuple[int, str, set[str]]:
    """Return exit code and output of a program, and the modules that it imported."""
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", f"{PACKAGE}.{program}", *flags],
        env=os.environ | {"PYTHONPATH": str(tiny_sources())},
        capture_output=True,
        text=True,
        timeout=TIMEOUT_SECONDS,
    )
    lines = done.stderr.splitlines()
    times = [line for line in lines if line.startswith("import time:")]
    others = "\n".join(line for line in lines if not line.startswith("import time:"))
    return done.returncode, done.stdout + others, {line.split("|")[-1].strip() for line in times}


@pytest.mark.parametrize("program", ["train", "reference.single", "reference.ddp"])
@pytest.mark.parametrize("flags", [["--help"], ["--seed", "one"], ["--config", "nowhere.yaml"]])
def test_help_and_wrong_flags_do_not_wait_for_torch(program: str, flags: list[str]) -> None:
    code, output, imported = run(program, *flags)
    assert code == (0 if flags == ["--help"] else 2), output
    if flags == ["--help"]:
        assert f"usage: python -m {PACKAGE}.{program}" in output
        assert ("--num-processes" in output) == (program == "reference.ddp")
    else:
        assert re.search("^error: ", output, re.MULTILINE) and "Traceback" not in output
    assert "torch" not in imported


def test_a_flag_of_another_program_is_refused() -> None:
    code, output, _ = run("reference.single", "--num-processes", "2")
    assert code == 2 and "error: Unrecognized options: --num-processes" in output


@pytest.mark.parametrize("program", ["train", "reference.single", "reference.ddp"])
def test_a_plan_imports_nothing_that_only_training_needs(program: str, tmp_path: Path) -> None:
    flags = ["--plan", "--placement", "cpu", "--tracker", "none", "--run-dir", str(tmp_path)]
    code, output, imported = run(program, *flags)
    assert code == 0, output
    assert "torch" in imported and not imported & HEAVY


def test_a_run_imports_nothing_that_only_other_placements_need(tmp_path: Path) -> None:
    flags = ["--placement", "cpu", "--max-steps", "2", "--tracker", "none"]
    code, output, imported = run("train", *flags, "--run-dir", str(tmp_path / "run"))
    assert code == 0, output
    # Matplotlib draws the curves.
    assert imported & HEAVY == {"matplotlib"}
