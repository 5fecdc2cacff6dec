"""One config, one result: whole runs of every strategy, compared step by step."""

from pathlib import Path

import pytest

from .conftest import NEEDS_EXACT_FSDP2, SHORT_RUN
from .launching import read_metrics, read_summary, run_train, weight_difference


@pytest.fixture(scope="session")
def plain_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_train(tmp_path_factory.mktemp("runs") / "plain", *SHORT_RUN, "--no-exact")


@pytest.mark.parametrize(
    ("program", "world_size"),
    [
        ("reference.single", 1),
        ("reference.data_parallel", 1),
        ("reference.ddp", 2),
        ("reference.fsdp2", 2),
    ],
)
def test_a_strategy_repeats_the_single_process_to_rounding(
    program: str, world_size: int, plain_run: Path, tmp_path: Path
) -> None:
    run_dir = run_train(
        tmp_path / "run", *SHORT_RUN, "--no-exact", program=program, num_processes=world_size
    )
    summary = read_summary(run_dir)

    assert summary["placement"] == program.removeprefix("reference.")
    assert summary["world_size"] == summary["data_parallel_size"] == world_size
    assert (summary["gradient_accumulation_steps"], summary["exact"]) == (8 // world_size, False)
    # Clipping would hide a wrong scale of the gradients in the weights, but not in the norm.
    for line, expected in zip(read_metrics(run_dir), read_metrics(plain_run), strict=True):
        assert line.pop("split") == expected.pop("split")
        assert line == pytest.approx(expected, rel=1e-4)
    assert weight_difference(run_dir, plain_run) < 1e-5


@pytest.mark.parametrize(
    ("program", "world_size"),
    [
        ("train", 2),
        ("reference.single", 1),
        pytest.param("reference.fsdp2", 2, marks=NEEDS_EXACT_FSDP2),
    ],
)
def test_exact_runs_are_the_same_to_the_last_bit(
    program: str, world_size: int, single_run: Path, tmp_path: Path
) -> None:
    run_dir = run_train(tmp_path / "run", *SHORT_RUN, program=program, num_processes=world_size)
    summary = read_summary(run_dir)

    placement = {"train": "ddp"}.get(program, program.removeprefix("reference."))
    assert summary["placement"] == placement
    assert (summary["world_size"], summary["exact"]) == (world_size, True)
    assert weight_difference(run_dir, single_run) == 0
    assert read_metrics(run_dir) == read_metrics(single_run)


def test_bf16_gives_the_same_weights_in_every_program(tmp_path: Path) -> None:
    short = ["--max-steps", 2, "--tracker", "none"]
    float32 = run_train(tmp_path / "float32", *short, program="reference.single")
    programs = ("reference.single", "reference.data_parallel", "train")
    bf16 = [
        run_train(tmp_path / program, *short, "--mixed-precision", "bf16", program=program)
        for program in programs
    ]

    assert weight_difference(bf16[0], float32) > 0
    assert [weight_difference(run_dir, bf16[0]) for run_dir in bf16[1:]] == [0, 0]


def test_the_order_of_the_sums_is_what_makes_the_difference(
    single_run: Path, plain_run: Path
) -> None:
    assert 0 < weight_difference(single_run, plain_run) < 1e-5
