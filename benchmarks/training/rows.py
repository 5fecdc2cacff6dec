"""What is measured: jobs, and the loops that do each, with flags that all of them take."""

from dataclasses import dataclass

BY_HAND = "loop by hand"


@dataclass(frozen=True)
class Row:
    """A loop, and how it is run."""

    name: str
    loop: str
    """A module of `loops`, or a program of the project, such as train or reference.ddp."""

    flags: tuple[str, ...] = ()
    against: str = BY_HAND
    """The row that its step time is divided by."""

    num_processes: int = 1
    text_megabytes: int = 0
    """Size of a text file to train on; 0 is the starter's data."""


@dataclass(frozen=True)
class Job:
    """A model and its data, the flags of all rows, and the rows."""

    title: str
    starter: str
    flags: tuple[str, ...]
    rows: tuple[Row, ...]
    steps: int
    """Optimizer steps."""

    files: str | None = None
    """Folder of `jobs` whose files replace the starter's."""

    is_stopped: bool = False
    """Whether a signal stops the run after its last step, before any evaluation."""


def peers() -> tuple[Row, ...]:
    """Return what a user would pick instead, and the project."""
    return (
        Row("limit: one batch that stays on the device", "limit"),
        Row(BY_HAND, "bare"),
        Row("loop of a tutorial", "tutorial"),
        Row("Accelerate, as documented", "with_accelerate"),
        Row("Ignite", "with_ignite"),
        Row("Lightning", "with_lightning"),
        Row("Hugging Face Trainer", "with_trainer"),
        *programs(),
    )


def programs() -> tuple[Row, ...]:
    """Return the project's programs of one process, without and with exact sums."""
    return (
        Row("`reference.single --no-exact`", "reference.single", ("--no-exact",)),
        Row("`train --no-exact`", "train", ("--no-exact",)),
        Row("`train`", "train"),
    )


def in_passes(size: int) -> tuple[Row, ...]:
    """Return loops whose steps take several passes of this size."""
    flags, by_hand = ("--micro-batch-size", str(size)), f"{BY_HAND}, passes of {size}"
    return (
        Row(by_hand, "bare", flags),
        Row(f"`reference.single`, passes of {size}", "reference.single", flags, by_hand),
        Row(f"`train --no-exact`, passes of {size}", "train", (*flags, "--no-exact"), by_hand),
        Row(f"`train`, passes of {size}", "train", flags, by_hand),
    )


def sizes(batch: int, micro_batch: int, *others: str) -> tuple[str, ...]:
    """Return the flags of these sizes, and others."""
    batches = ("--global-batch-size", str(batch), "--micro-batch-size", str(micro_batch))
    return (*batches, *others)


def on_processes(number: int) -> tuple[Row, Row]:
    """Return `train` without and with exact sums."""
    name = f"on {number} processes" if number > 1 else "on 1 process"
    rounded = f"`train --no-exact` {name}"
    return (
        Row(rounded, "train", ("--no-exact",), rounded, number),
        Row(f"`train` {name}", "train", (), rounded, number),
    )


def on_two(program: str) -> Row:
    """Return a program on two processes with twice the batch."""
    flags = ("--global-batch-size", "128")
    return Row(f"`{program}` on 2 processes, batch 128", program, flags, ALONE.name, 2)


def on_text(megabytes: int) -> Row:
    """Return `train` on a text file."""
    name = "`train --no-exact`, {} MB of text".format
    flags = ("--no-exact",)
    return Row(name(megabytes), "train", flags, name(5), text_megabytes=megabytes)


ALONE = Row("`train` on 1 process, batch 64", "train", (), "`train` on 1 process, batch 64")
QUIET = ("--eval-every", "0", "--checkpoint-every", "0")
CPU_JOBS = {
    "overhead": Job(
        "Overhead: an MLP 64-128-10, batch 64",
        "vision",
        sizes(64, 64, "--eval-every", "100", "--checkpoint-every", "100"),
        peers(),
        files="mlp",
        steps=400,
    ),
    "vision": Job(
        "The vision starter, batch 256",
        "vision",
        sizes(256, 256, "--eval-every", "20", "--checkpoint-every", "20"),
        (*peers(), *in_passes(32)),
        steps=60,
    ),
    "language": Job(
        "The language starter, 1M parameters, batch 16 x 128 bytes",
        "language",
        sizes(16, 16, "--eval-every", "0", "--checkpoint-every", "15"),
        (*peers(), *in_passes(2)),
        steps=30,
    ),
    "computing": Job(
        "Computing: the language starter at 10M parameters",
        "language",
        sizes(16, 16, "--size", "10M", *QUIET),
        peers(),
        steps=8,
    ),
    "processes": Job(
        "Two processes of one thread each, 64 samples a process: the vision starter",
        "vision",
        sizes(64, 8, *QUIET),
        (ALONE, *map(on_two, ("train", "reference.ddp", "reference.fsdp2"))),
        steps=80,
    ),
    "exact": Job(
        "Exact sums, 64 samples in 8 passes: the vision starter",
        "vision",
        sizes(64, 8, *QUIET),
        (*on_processes(1), *on_processes(2), *on_processes(4)),
        steps=80,
    ),
    "data": Job(
        "More data, memory-mapped: the language starter",
        "language",
        sizes(16, 16, *QUIET),
        tuple(map(on_text, (5, 50, 500))),
        is_stopped=True,
        steps=30,
    ),
}

HALF_PRECISION = ("--mixed-precision", "bf16", "--compile", *QUIET)
GPU_JOBS = {
    "vision": Job(
        "ResNet-9, images of 32 x 32 RGB, batch 512, bf16, compiled",
        "vision",
        sizes(512, 512, *HALF_PRECISION),
        peers(),
        files="resnet9",
        is_stopped=True,
        steps=255,
    ),
    "language": Job(
        "GPT of 124M parameters, batch 32 x 1,024 bytes, bf16, compiled",
        "language",
        sizes(32, 32, "--size", "124M", "--block-size", "1024", *HALF_PRECISION),
        peers(),
        steps=65,
        is_stopped=True,
    ),
}
