"""What deterministic kernels and sums in a fixed order cost: step times, paired in turns."""

import statistics

from .job import Job
from .workplace import Found, Workplace, summarize_times, times_of

NUM_PAIRS, STEPS_PER_VALUE = 3, 5


def cost_of_exact(micro_batch_size: int, here: Workplace) -> Found:
    """Time `--exact` and `--no-exact` in one process, in turns.

    With one pass per step there is nothing to sum: it is the cost of deterministic kernels.
    """
    times: dict[str, list[float]] = {"--exact": [], "--no-exact": []}
    medians: dict[str, list[float]] = {"--exact": [], "--no-exact": []}
    for pair in range(1, (NUM_PAIRS if here.is_full else 1) + 1):
        for setting in times if pair % 2 else reversed(times):
            found = times_of(here.run(timed(here, setting, micro_batch_size, pair)))
            times[setting] += found
            medians[setting].append(statistics.median(found))
    ratios = [with_it / without for with_it, without in zip(*medians.values(), strict=True)]
    exact, rounded = (summarize_times(each) for each in times.values())
    text = (
        f"median {exact['step_ms_median']:.2f} ms with, {rounded['step_ms_median']:.2f} without; "
        f"5th percentile {exact['step_ms_p5']:.2f} and {rounded['step_ms_p5']:.2f}; "
        f"ratio of medians in pairs {shown(ratios)}"
    )
    values = {"micro_batch_size": micro_batch_size, "exact": exact, "no_exact": rounded}
    return Found(text, {**values, "ratios": ratios, "ratio": statistics.median(ratios)})


def timed(here: Workplace, setting: str, micro_batch_size: int, pair: int) -> Job:
    """Return a run without validations, whose log has many values of few steps."""
    every = STEPS_PER_VALUE if here.is_full else 1
    flags = (setting, "--micro-batch-size", str(micro_batch_size))
    return Job(flags=(*flags, "--eval-every", "0", "--log-every", str(every)), turn=pair)


def shown(ratios: list[float]) -> str:
    """Return median and range."""
    median = f"{statistics.median(ratios):.3f}"
    if len(ratios) == 1:
        return median
    return f"{median} ({min(ratios):.3f} to {max(ratios):.3f})"
