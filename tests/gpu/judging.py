"""What must hold of two runs; AssertionError says by how much it does not."""

import math
from collections.abc import Iterator
from typing import Any

from ..runs import Difference, Run, difference
from .workplace import Workplace

# Of the first logged step, the loss and the gradient norm of equal weights.
SAME_MATH = (1e-3, 1e-3)
# The first scale of fp16 may overflow, which the scaler expects.
LOWER_PRECISION = {"bf16": (5e-2, 2e-1), "fp16": (5e-2, math.inf)}
ACCURACY = 0.9
ACCURACY_TOLERANCE = 0.03


def require(condition: bool, reason: str) -> None:
    """Raise AssertionError, also where Python ignores assert."""
    if not condition:
        raise AssertionError(reason)


def accurate(here: Workplace, run: Run) -> str:
    """Return the accuracy of a run, which must have learned something if it is a full one."""
    accuracy = run.summary["test_accuracy"]
    if here.is_full:
        require(accuracy > ACCURACY, f"accuracy {accuracy:.4f} is not over {ACCURACY}")
    return f"accuracy {accuracy:.4f}"


def same_bits(run: Run, expected: Run) -> str:
    """Compare everything but the time that two exact runs took."""
    for each in (run, expected):
        require(each.summary["exact"], f"{each.folder.name} is not exact, though it was asked for")
    apart = list(differing(run, expected))
    if apart:
        raise AssertionError(
            f"not the same bits: {'; '.join(apart[:3])}; {measured(run, expected)}"
        )
    return f"the same bits after {run.summary['optimizer_steps']} steps"


def differing(run: Run, expected: Run) -> Iterator[str]:
    """Yield what two runs do not share, with the first step of it."""
    for line, other in zip(run.metrics, expected.metrics, strict=False):
        for name in other:
            # By their digits: a NaN is no other NaN.
            if repr(line.get(name)) != repr(other[name]):
                value = f"{name} {line.get(name)} instead of {other[name]}"
                yield f"{other['split']} step {other['step']}: {value}"
    if len(run.metrics) != len(expected.metrics):
        yield f"{len(run.metrics)} lines of metrics.jsonl instead of {len(expected.metrics)}"
    for name, value in expected.summary.items():
        if name.startswith("test_") and run.summary.get(name) != value:
            yield f"{name} {run.summary.get(name)} instead of {value}"
    if run.weights_file != expected.weights_file:
        yield "model.safetensors"


def close(
    here: Workplace, run: Run, expected: Run, first: tuple[float, float] = SAME_MATH
) -> tuple[str, dict[str, Any]]:
    """Compare two runs that differ in the order of sums, in kernels or in precision.

    Training amplifies rounding, so the whole run is judged by its accuracy, if it is a full one,
    and the first step by `first`, the tolerances of loss and gradient norm. The largest
    differences of all steps are told.
    """
    loss, grad_norm = first_step(run, expected)
    require(
        loss <= first[0] and not grad_norm > first[1],
        f"loss and gradient norm of the first step are {loss:.1e} and {grad_norm:.1e} apart, more "
        f"than {first[0]:.0e} and {first[1]:.0e}",
    )
    lost = expected.summary["test_accuracy"] - run.summary["test_accuracy"]
    if here.is_full:
        require(lost <= ACCURACY_TOLERANCE, f"accuracy {lost:.4f} below {expected.folder.name}")
    found = difference(run, expected)
    text = f"accuracy {run.summary['test_accuracy']:.4f} ({-lost:+.4f}); {found}"
    values = {"loss": found.loss, "grad_norm": found.grad_norm, "weights": found.weights}
    return text, {**values, "accuracy": -lost, "first_loss": loss, "first_grad_norm": grad_norm}


def first_step(run: Run, expected: Run) -> tuple[float, float]:
    """Return the relative differences of loss and gradient norm at the first logged step."""
    line, other = run.metrics[0], expected.metrics[0]
    require((line["split"], line["step"]) == ("train", 1) == (other["split"], other["step"]), "log")
    loss, grad_norm = (
        abs(line[name] - other[name]) / abs(other[name]) for name in ("loss", "grad_norm")
    )
    return loss, grad_norm


def measured(run: Run, expected: Run) -> Difference | str:
    """Return the differences, or why there are none."""
    try:
        return difference(run, expected)
    except (AssertionError, ValueError, KeyError) as error:
        return f"they cannot be compared further ({type(error).__name__})"
