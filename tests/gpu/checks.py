"""The checks: each compares runs, and says what it found, or why this machine cannot run it."""

import time
from collections.abc import Callable
from functools import partial

from ..runs import Run
from .cost import cost_of_exact
from .job import Job, end_all
from .judging import LOWER_PRECISION, accurate, close, require, same_bits
from .workplace import CannotRun, Found, RunFailed, Workplace

# 256 samples a step are eight micro-batches.
MOST_PROCESSES = 8
ROUNDED = Job(flags=("--no-exact",))
EXACT = Job()


Check = Callable[[Workplace], Found]


def float32(here: Workplace) -> Found:
    return Found(accurate(here, here.run(ROUNDED)))


def precision(name: str, here: Workplace) -> Found:
    if name == "bf16" and not here.machine.get("has_bf16", here.device == "cpu"):
        raise CannotRun("this GPU has no bf16")
    if name == "fp16" and here.device == "cpu":
        raise CannotRun("fp16 needs a GPU")
    run = here.run(Job(flags=("--no-exact", "--mixed-precision", name)))
    expected = here.run(ROUNDED)
    require(run.summary["mixed_precision"] == name, "the run was not in this precision")
    require(run.metrics != expected.metrics, "the same numbers as in float32")
    return Found(*close(here, run, expected, LOWER_PRECISION[name]))


def compiled(here: Workplace) -> Found:
    if not here.machine["compiler"]:
        raise CannotRun("torch.compile needs a C compiler, and none was found")
    if here.device == "cuda" and not here.machine["triton"]:
        raise CannotRun("torch.compile needs triton on a GPU, and it is not installed")
    run = here.run(Job(flags=("--no-exact", "--compile")))
    return Found(*close(here, run, here.run(ROUNDED)))


def again(here: Workplace) -> Found:
    return Found(same_bits(here.run(Job(turn=1)), here.run(EXACT)))


def resumed(precision: str, here: Workplace) -> Found:
    """Stop `train` by a signal, and resume it by `reference.single`."""
    if precision == "fp16" and here.device == "cpu":
        raise CannotRun("fp16 needs a GPU")
    flags = ("--exact", "--mixed-precision", precision)
    expected = here.run(Job(flags=flags) if precision != "no" else EXACT)
    every = ("--checkpoint-every", str(max(1, here.steps // 10)))
    job = Job(flags=(*flags, *every))
    run = Run(here.folder / f"resumed-{precision}")
    process = here.start(job, run.folder)
    try:
        while process.poll() is None and not list(run.folder.glob("checkpoints/step_*")):
            if time.monotonic() > here.deadline:
                raise RunFailed("no checkpoint in time", here.tail_of(job))
            time.sleep(0.002)
        process.terminate()
        here.finish(process, job)
    finally:
        end_all(process)
    if run.summary["stopped_by"] != "SIGTERM":
        raise CannotRun("the run was over before the signal reached it; try more --steps")
    resume = Job("reference.single", job.flags)
    here.finish(here.start(resume, run.folder, "--resume", "must"), resume)
    at = run.summary["resumed_from"]
    require(0 < at < here.steps, f"resumed from step {at}")
    return Found(f"from step {at}: {same_bits(run, expected)}", {"resumed_from": at})


def like_train(job: Job, here: Workplace) -> Found:
    """Compare an exact run with `train` in one process on one device."""
    if job.program == "reference.fsdp2" and torch_version(here) < (2, 9):
        raise CannotRun("FSDP2 takes a reduce-scatter in a fixed order from torch 2.9 on")
    if job.launcher == "one_gpu.yaml" and here.devices(1) not in ("", "0"):
        raise CannotRun(f"it takes GPU 0, and this program was given {here.devices(1)}")
    if job.is_shared and "Exclusive" in (here.machine["compute_mode"] or ""):
        raise CannotRun("this GPU is set to take one process at a time")
    text, backend = same_bits(here.run(job), here.run(EXACT)), here.runs[job.name]["backend"]
    return Found(f"{text}, {backend}" if backend else text, {"backend": backend})


def fsdp2_in_one_process(here: Workplace) -> Found:
    """Compare to rounding: in one process, FSDP2 calls no reduce-scatter that could be exact."""
    job = Job("reference.fsdp2", ROUNDED.flags, strategy="fsdp2", launcher="torchrun")
    text, values = close(here, here.run(job), here.run(ROUNDED))
    backend = here.runs[job.name]["backend"]
    return Found(f"{text}, {backend}", {**values, "backend": backend})


def exact_on_gpus(program: str, strategy: str, here: Workplace) -> Found:
    sizes = sizes_of(here)
    for size in sizes:
        job = Job(program, ("--exact",), size, size, "torchrun", strategy)
        like_train(job, here)
        passes = here.run(job).summary["gradient_accumulation_steps"]
        require(passes == MOST_PROCESSES // size, f"{passes} passes a step on {size} GPUs")
    return Found(f"the same bits on 1, {', '.join(map(str, sizes))} GPUs")


def strategy_on_gpus(job: Job, here: Workplace) -> Found:
    """Compare a strategy on all GPUs, to rounding, with one process on one device."""
    size = sizes_of(here)[-1]
    processes = 1 if job.strategy == "data_parallel" else size
    job = Job(job.program, job.flags, processes, size, job.launcher, job.strategy)
    run = here.run(job)
    found = run.summary["data_parallel_size"]
    require(found == size, f"{found} replicas on {size} GPUs")
    text, values = close(here, run, here.run(ROUNDED))
    return Found(f"{size} GPUs: {text}", values)


def sizes_of(here: Workplace) -> list[int]:
    """Return the numbers of GPUs above one that this machine allows, each twice the one before."""
    if here.num_gpus < 2:
        raise CannotRun(f"it needs two GPUs, and this machine has {here.num_gpus}")
    return [size for size in (2, 4, MOST_PROCESSES) if size <= here.num_gpus]


def torch_version(here: Workplace) -> tuple[int, ...]:
    major, minor, *_ = here.machine["torch"].split(".")
    return int(major), int(minor)


def shared(program: str, strategy: str, num_processes: int = 2) -> Check:
    """Return the check of ranks that share one device, over gloo."""
    job = Job(program, ("--exact",), num_processes, 1, "torchrun", strategy)
    return partial(like_train, job)


def on_gpus(program: str, strategy: str, launcher: str = "torchrun") -> Check:
    return partial(strategy_on_gpus, Job(program, ROUNDED.flags, 1, 1, launcher, strategy))


ON_ONE_RANK = Job("reference.ddp", strategy="ddp", launcher="torchrun")
CHECKS: dict[str, Check] = {
    "float32": float32,
    "bf16": partial(precision, "bf16"),
    "fp16": partial(precision, "fp16"),
    "compile": compiled,
    "exact twice": again,
    "resume": partial(resumed, "no"),
    "resume fp16": partial(resumed, "fp16"),
    "single": partial(like_train, Job("reference.single")),
    "accelerate launch": partial(like_train, Job(launcher="one_gpu.yaml")),
    "ddp, 1 rank": partial(like_train, ON_ONE_RANK),
    "fsdp2, 1 rank": fsdp2_in_one_process,
    "train, 2 ranks on a device": shared("train", "ddp"),
    "ddp, 2 ranks on a device": shared("reference.ddp", "ddp"),
    "fsdp2, 2 ranks on a device": shared("reference.fsdp2", "fsdp2"),
    "ddp, 8 ranks on a device": shared("reference.ddp", "ddp", MOST_PROCESSES),
    "cost of exact, micro-batches": partial(cost_of_exact, 32),
    "cost of exact, one pass": partial(cost_of_exact, 256),
    "exact train on GPUs": partial(exact_on_gpus, "train", "ddp"),
    "exact ddp on GPUs": partial(exact_on_gpus, "reference.ddp", "ddp"),
    "exact fsdp2 on GPUs": partial(exact_on_gpus, "reference.fsdp2", "fsdp2"),
    "train data_parallel on GPUs": on_gpus("train", "data_parallel", "python"),
    "train ddp on GPUs": on_gpus("train", "ddp"),
    "accelerate ddp on GPUs": on_gpus("train", "ddp", "all_gpus.yaml"),
    "accelerate fsdp2 on GPUs": on_gpus("train", "fsdp2", "fsdp2.yaml"),
    "data_parallel on GPUs": on_gpus("reference.data_parallel", "data_parallel", "python"),
    "ddp on GPUs": on_gpus("reference.ddp", "ddp"),
    "fsdp2 on GPUs": on_gpus("reference.fsdp2", "fsdp2"),
}
