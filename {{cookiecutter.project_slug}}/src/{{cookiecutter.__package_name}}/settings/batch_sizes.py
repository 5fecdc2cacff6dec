"""Batch arithmetic: `global_batch_size` is set, gradient accumulation follows from it."""

from .errors import SettingError


def gradient_accumulation_steps(
    global_batch_size: int, micro_batch_size: int, data_parallel_size: int
) -> int:
    """Return the number of forward passes per optimizer step on each of the devices.

    Raises:
        SettingError: `global_batch_size` does not divide evenly over the devices.
    """
    samples_per_pass = micro_batch_size * data_parallel_size
    steps, remainder = divmod(global_batch_size, samples_per_pass)
    if not remainder:
        return steps
    advice = _sizes_that_divide(global_batch_size, micro_batch_size, data_parallel_size)
    raise SettingError(
        f"global_batch_size ({global_batch_size}) must be a multiple of micro_batch_size "
        f"x data_parallel_size ({micro_batch_size} x {data_parallel_size} = "
        f"{samples_per_pass}); try {advice}"
    )


def _sizes_that_divide(
    global_batch_size: int, micro_batch_size: int, data_parallel_size: int
) -> str:
    """Return the nearest flags that satisfy the rule above."""
    share, uneven = divmod(global_batch_size, data_parallel_size)
    samples_per_pass = micro_batch_size * data_parallel_size
    below = global_batch_size // samples_per_pass * samples_per_pass
    flags = [f"--global-batch-size {size}" for size in (below, below + samples_per_pass) if size]
    if share and not uneven:
        divisors = [size for size in range(1, share + 1) if share % size == 0]
        nearest = min(divisors, key=lambda size: abs(size - micro_batch_size))
        flags.insert(0, f"--micro-batch-size {nearest}")
    fewer = [
        size
        for size in range(1, data_parallel_size)
        if global_batch_size % (micro_batch_size * size) == 0
    ]
    same = f"; or use {fewer[-1]} device(s) with these sizes" if fewer else ""
    return " or ".join(flags) + same
