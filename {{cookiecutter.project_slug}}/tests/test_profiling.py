"""`--profile`: which steps are recorded, and what is printed of them."""

import json
import re
from pathlib import Path

import pytest

from .launching import run_train

FLAGS = ["--placement", "cpu", "--tracker", "none", "--profile", "--max-steps"]


def test_a_profile_is_a_trace_of_three_steps_and_the_dearest_operations(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(tmp_path, *FLAGS, 6, program="reference.single")
    title = "Dearest operations of a step, from 3 steps\n"
    lines = capsys.readouterr().out.partition(title)[2].splitlines()[:10]
    shares = [float(share) for line in lines for share in re.findall(r"([\d.]+)% ", line)]
    assert len(shares) == 10 and shares == sorted(shares, reverse=True) and 20 < sum(shares) < 101

    trace = json.loads((tmp_path / "trace.json").read_text(encoding="utf-8"))
    names = {event["name"] for event in trace["traceEvents"]}
    assert {name for name in names if "ProfilerStep" in name} == {
        f"ProfilerStep#{step}" for step in (3, 4, 5)
    }
    assert "profile" not in (tmp_path / "config.yaml").read_text(encoding="utf-8")


def test_a_run_that_is_too_short_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_train(tmp_path, *FLAGS, 3, program="reference.single")
    assert "nothing was profiled: it takes 4 steps" in capsys.readouterr().err
    assert not (tmp_path / "trace.json").exists()
