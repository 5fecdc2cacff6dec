"""Compare precisions, exactness and placements on the GPUs of this machine: `python -m tests.gpu`.

It runs in a Python that has a torch for these GPUs and the project's other dependencies. It
installs nothing, and ends by saying what it ran, and what it could not run here and why.
"""

import argparse
import importlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .rendering import render
from .runs import Difference, Run, assert_same_bits, difference, finish, start, train

SETTINGS = ["--max-steps", 190, "--log-every", 10, "--eval-every", 50, "--tracker", "none"]
# Ten epochs reach well over 0.9: a type of lower precision may cost this much of it.
ACCURACY_TOLERANCE = 0.03
# Beyond the order of the sums, kernels that are not deterministic differ from run to run.
STEP_TOLERANCE, WEIGHT_TOLERANCE = 1e-3, 1e-4
# 64 samples a step are eight micro-batches.
MOST_PROCESSES = 8


class CannotRun(Exception):
    """What this machine lacks for a comparison."""


class Workplace:
    """A rendered project, the machine's GPUs, and the runs made so far, each of them once."""

    def __init__(self, project: Path, folder: Path, num_gpus: int) -> None:
        self.project, self.folder, self.num_gpus = project, folder, num_gpus
        self.made: dict[str, Run] = {}

    def run(
        self, program: str, *settings: str, num_processes: int = 1, placement: str | None = None
    ) -> Run:
        """Train on the GPUs; one process that is to see one GPU says so by its placement."""
        # DataParallel takes all GPUs that it sees, and they have to share eight micro-batches.
        visible = self.sizes()[-1] if placement == "data_parallel" else self.num_gpus
        words = [program, *settings, f"x{num_processes}", *([placement] if placement else [])]
        name = "-".join(words).replace("--", "")
        if name not in self.made:
            run = train(
                self.project,
                self.folder / name,
                program,
                *SETTINGS,
                *settings,
                num_processes=num_processes,
                placement=placement,
                environment={"CUDA_VISIBLE_DEVICES": first_devices(visible)},
            )
            assert run.summary["device"] == "cuda", run.summary["device"]
            self.made[name] = run
        return self.made[name]

    def single(self, *settings: str) -> Run:
        """Train in one process on the first GPU, whatever number there is."""
        return self.run("train", "--placement", "single", *settings)

    def sizes(self) -> list[int]:
        """Return the numbers of processes that these GPUs allow, each twice the one before."""
        sizes = [1]
        while sizes[-1] * 2 <= min(self.num_gpus, MOST_PROCESSES):
            sizes.append(sizes[-1] * 2)
        return sizes

    def several(self) -> list[int]:
        if self.num_gpus < 2:
            raise CannotRun(f"it needs two GPUs, and this machine has {self.num_gpus}")
        return self.sizes()[1:]


def float32(here: Workplace) -> str:
    run = here.single("--no-exact")
    assert run.summary["test_accuracy"] > 0.9
    return describe(run)


def bf16(here: Workplace) -> str:
    if not torch().cuda.is_bf16_supported(including_emulation=False):
        raise CannotRun("this GPU has no bf16")
    return close_to_float32(here, "--mixed-precision", "bf16")


def fp16(here: Workplace) -> str:
    return close_to_float32(here, "--mixed-precision", "fp16")


def compiled(here: Workplace) -> str:
    return close_to_float32(here, "--compile")


def close_to_float32(here: Workplace, *settings: str) -> str:
    run, expected = here.single("--no-exact", *settings), here.single("--no-exact")
    wanted = settings[-1] if "--mixed-precision" in settings else "no"
    assert run.summary["mixed_precision"] == wanted
    lost = expected.summary["test_accuracy"] - run.summary["test_accuracy"]
    assert lost <= ACCURACY_TOLERANCE, f"{describe(run)}, {lost:.4f} below float32"
    assert run.metrics != expected.metrics, "the setting changed nothing"
    return describe(run)


def exact_again(here: Workplace) -> str:
    run = here.single("--exact")
    again = train(
        here.project,
        here.folder / "exact-again",
        "train",
        *SETTINGS,
        *("--placement", "single", "--exact"),
        environment={"CUDA_VISIBLE_DEVICES": first_devices(here.num_gpus)},
    )
    assert_same_bits(again, run)
    return f"the same bits; {describe(run)}"


def resumed(here: Workplace) -> str:
    """Stop `train` by a signal, and go on by `reference.single`; fp16 has a scaler to restore."""
    steps = []
    for precision in ("no", "fp16"):
        settings = ["--exact", "--mixed-precision", precision]
        run = Run(here.folder / f"resumed-{precision}")
        words = [*SETTINGS, *settings, "--checkpoint-every", 5, "--run-dir", run.folder]
        environment = {"CUDA_VISIBLE_DEVICES": first_devices(here.num_gpus)}
        words += ["--placement", "single"]
        job = start(here.project, "train", *words, environment=environment)
        while job.poll() is None and not list(run.folder.glob("checkpoints/step_*")):
            time.sleep(0.01)
        job.terminate()
        finish(job)
        assert run.summary["stopped_by"] == "SIGTERM"
        words += ["--resume", "must"]
        finish(start(here.project, "reference.single", *words, environment=environment))
        assert_same_bits(run, here.single(*settings))
        steps.append(str(run.summary["resumed_from"]))
    return f"from steps {' and '.join(steps)}, in float32 and fp16, to the same bits"


def references_of_one_process(here: Workplace) -> str:
    single = here.single("--exact")
    for program in ("reference.single", "reference.ddp"):
        assert_same_bits(here.run(program, "--exact"), single)
    # PyTorch calls no custom reduce-scatter on one process, so that FSDP2 cannot be exact there.
    found = difference(here.run("reference.fsdp2", "--no-exact"), single)
    assert is_close(found), found
    return f"single and ddp (nccl) have the bits of train; fsdp2: {found}"


def exact_over_processes(here: Workplace) -> str:
    for size in here.several():
        for program in ("train", "reference.ddp", "reference.fsdp2"):
            run = here.run(program, "--exact", num_processes=size)
            assert run.summary["gradient_accumulation_steps"] == MOST_PROCESSES // size
            assert_same_bits(run, here.single("--exact"))
    return f"the same bits on {', '.join(map(str, here.sizes()))} processes"


def every_strategy(here: Workplace) -> str:
    size = here.several()[-1]
    flags = "--no-exact"
    runs = {
        "train ddp": here.run("train", flags, num_processes=size),
        "train fsdp2": here.run(
            "train", flags, "--placement", "fsdp2", num_processes=size, placement="fsdp2"
        ),
        "train data_parallel": here.run("train", flags, placement="data_parallel"),
        "data_parallel": here.run("reference.data_parallel", flags, placement="data_parallel"),
        "ddp": here.run("reference.ddp", flags, num_processes=size),
        "fsdp2": here.run("reference.fsdp2", flags, num_processes=size),
    }
    found = {name: difference(run, here.single(flags)) for name, run in runs.items()}
    assert {run.summary["data_parallel_size"] for run in runs.values()} == {size}
    far = {name: str(apart) for name, apart in found.items() if not is_close(apart)}
    assert not far, far
    return f"{size} GPUs; " + "; ".join(f"{name}: {apart}" for name, apart in found.items())


def is_close(found: Difference) -> bool:
    steps_agree = max(found.loss, found.grad_norm) <= STEP_TOLERANCE
    return steps_agree and found.weights <= WEIGHT_TOLERANCE


CHECKS: dict[str, Callable[[Workplace], str]] = {
    "train in float32": float32,
    "train in bf16": bf16,
    "train in fp16": fp16,
    "train compiled": compiled,
    "train --exact twice": exact_again,
    "stopped and resumed": resumed,
    "references, one process": references_of_one_process,
    "--exact over processes": exact_over_processes,
    "every strategy": every_strategy,
}


def describe(run: Run) -> str:
    rate = run.summary["train_samples_per_second"]
    return f"accuracy {run.summary['test_accuracy']:.4f}, {rate:,.0f} samples/s"


def first_devices(count: int) -> str:
    """Return the first of the devices that this program was given itself."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = given.split(",") if given else list(map(str, range(count)))
    return ",".join(names[:count])


def torch() -> Any:
    return importlib.import_module("torch")


def find_gpus() -> int:
    """Return the number of GPUs, or end with one line that says what is missing."""
    needs = "error: this needs a CUDA GPU and, in the Python that runs it, a torch built for CUDA"
    try:
        version = torch().__version__
    except ImportError:
        sys.exit(f"{needs}; {sys.executable} has no torch")
    if not torch().cuda.is_available():
        sys.exit(f"{needs}; torch {version} finds no GPU here")
    return int(torch().cuda.device_count())


def make_project(folder: Path) -> Path:
    result = render(folder, {})
    if result.returncode:
        sys.exit(f"error: the template does not render (is cookiecutter there?)\n{result.stderr}")
    return folder / "my-run"


def check_all(here: Workplace) -> bool:
    """Run every check, print a line for each, and tell whether none failed."""
    lines: dict[str, list[str]] = {"Ran": [], "Could not run here": [], "Failed": []}
    for name, check in CHECKS.items():
        started = time.monotonic()
        try:
            kind, text = "Ran", check(here)
        except CannotRun as reason:
            kind, text = "Could not run here", str(reason)
        except Exception as error:
            # Outside of pytest an assertion says nothing of itself.
            where = traceback.extract_tb(error.__traceback__)[-1]
            kind, text = "Failed", f"{type(error).__name__} at '{where.line}': {error}"
        seconds = time.monotonic() - started
        lines[kind].append(f"  {name:26}{text} ({seconds:.0f} s)")
        print(f"{kind}: {name}: {text}", flush=True)
    print()
    for kind, entries in lines.items():
        print("\n".join([f"{kind}:", *(entries or ["  nothing"])]))
    return not lines["Failed"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--project", type=Path, help="a project rendered with the default answers; default: a new"
    )
    project: Path | None = parser.parse_args().project
    num_gpus = find_gpus()
    cuda = torch().cuda
    print(f"torch {torch().__version__}, {num_gpus} x {cuda.get_device_name(0)}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        here = Workplace(
            project.resolve() if project else make_project(Path(folder) / "rendered"),
            Path(folder) / "runs",
            num_gpus,
        )
        sys.exit(0 if check_all(here) else 1)


if __name__ == "__main__":
    main()
