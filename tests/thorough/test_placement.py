"""One config, one result: 200 steps on every placement that a CPU has, compared step by step."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from ..rendering import STARTERS, TEMPLATE
from ..runs import Run, assert_same_bits, difference, launch, train

# Beyond several epochs, with samples left over, the rate rising and falling, and clipping.
SETTINGS = [
    *("--max-steps", 200, "--log-every", 5, "--eval-every", 50),
    *("--placement", "cpu", "--tracker", "none"),
]
# Four micro-batches a step, so that 1, 2 and 4 processes accumulate 4, 2 and 1 of them. Other
# micro-batches would draw other dropout: the accumulation is changed by the processes alone.
SMALL_BATCH = ["--global-batch-size", 32, "--micro-batch-size", 8, "--learning-rate", 0.03]
ROUNDED = [*SETTINGS, *SMALL_BATCH, "--no-exact"]
EXACT = [*SETTINGS, "--exact"]
# A GPT is large for its 200 steps.
SMALL: dict[str, list[object]] = {
    "vision": [],
    "tabular": [],
    "language": ["--block-size", 32, "--data-file", TEMPLATE / "README.md"],
}
SHORT = ["--max-steps", 3, "--placement", "cpu", "--tracker", "none"]


@pytest.fixture(scope="module")
def rounded_run(default_project: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    return train(default_project, tmp_path_factory.mktemp("rounded") / "run", "train", *ROUNDED)


@pytest.fixture(scope="module", params=STARTERS)
def exact_run(
    request: pytest.FixtureRequest,
    starter_projects: dict[str, Path],
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[Path, list[object], Run]:
    """A project of each starter, its settings, and its run on one process."""
    project = starter_projects[request.param]
    settings = [*EXACT, *SMALL[request.param]]
    folder = tmp_path_factory.mktemp("exact") / "run"
    return project, settings, train(project, folder, "train", *settings)


@pytest.mark.parametrize(
    ("program", "num_processes"),
    [
        ("train", 2),
        ("train", 4),
        ("reference.single", 1),
        ("reference.data_parallel", 1),
        ("reference.ddp", 2),
        ("reference.ddp", 4),
        ("reference.fsdp2", 2),
    ],
)
def test_every_placement_agrees_to_rounding(
    program: str,
    num_processes: int,
    default_project: Path,
    rounded_run: Run,
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    run = train(default_project, tmp_path / "run", program, *ROUNDED, num_processes=num_processes)
    found = difference(run, rounded_run)
    record_property(f"{program} x{num_processes}", found)

    assert run.summary["gradient_accumulation_steps"] == 4 // num_processes
    assert run.summary["epochs"] > 5 and not run.summary["exact"]
    assert max(found.loss, found.grad_norm) <= 1e-4
    assert found.weights <= 1e-5


@pytest.mark.parametrize(
    ("program", "num_processes"),
    [
        ("train", 2),
        ("train", 4),
        ("train", 8),
        ("reference.ddp", 4),
        ("reference.fsdp2", 4),
    ],
)
def test_exact_runs_are_the_same_to_the_last_bit(
    program: str,
    num_processes: int,
    exact_run: tuple[Path, list[object], Run],
    tmp_path: Path,
    record_property: Callable[[str, object], None],
) -> None:
    project, settings, single = exact_run
    run = train(project, tmp_path / "run", program, *settings, num_processes=num_processes)
    record_property(f"{program} x{num_processes} --exact", difference(run, single))

    assert run.summary["gradient_accumulation_steps"] == 8 // num_processes
    assert_same_bits(run, single)


def test_compiled_runs_are_the_same_to_the_last_bit(default_project: Path, tmp_path: Path) -> None:
    short = [*EXACT, "--max-steps", 20]
    plain = train(default_project, tmp_path / "plain", "train", *short)
    runs = [
        train(
            default_project,
            tmp_path / f"{program}-{num_processes}",
            program,
            *short,
            "--compile",
            num_processes=num_processes,
        )
        for program, num_processes in (("train", 1), ("train", 2), ("reference.ddp", 2))
    ]
    for run in runs[1:]:
        assert_same_bits(run, runs[0])
    assert 0 < difference(runs[0], plain).weights <= 1e-5


@pytest.mark.parametrize("num_processes", [1, 2, 3])
def test_evaluation_counts_the_same_on_any_number_of_processes(
    num_processes: int, exact_run: tuple[Path, list[object], Run], tmp_path: Path
) -> None:
    project, _, single = exact_run
    script = tmp_path / "measure.py"
    script.write_text(MEASURE, encoding="utf-8")
    printed = launch(project, str(script), single.folder, num_processes=num_processes)
    [measured] = [json.loads(line) for line in printed.splitlines() if line.startswith("{")]
    expected = {
        name.removeprefix("test_"): value
        for name, value in single.summary.items()
        if name.startswith("test_")
    }

    assert {"samples", "loss"} < expected.keys()
    assert measured == {"world_size": num_processes, **expected}


# The program itself prints four digits.
MEASURE = """
import json, os, sys
from pathlib import Path
from my_run.distributed.process_group import leave_process_group
from my_run.evaluate import EvaluateConfig, evaluate_run

result = evaluate_run(EvaluateConfig(run_dir=Path(sys.argv[1]), placement="cpu"))
if int(os.environ.get("RANK", 0)) == 0:
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    print(json.dumps({"world_size": world_size, "samples": result.num_samples, **result.results}))
leave_process_group()
"""


@pytest.mark.parametrize(
    ("program", "repeats"), [("train", 10), ("reference.ddp", 5), ("reference.fsdp2", 5)]
)
def test_two_processes_end_well_every_time(
    program: str, repeats: int, default_project: Path, tmp_path: Path
) -> None:
    for repeat in range(repeats):
        train(default_project, tmp_path / str(repeat), program, *SHORT, num_processes=2)
