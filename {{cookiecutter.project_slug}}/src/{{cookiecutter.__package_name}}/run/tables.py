"""Tables on the terminal."""

from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text


def shown(value: float) -> str:
    """Return a result with four decimals; a small or a large one with four or five digits."""
    if 0 < abs(value) < 1e-3:
        return f"{value:.4g}"
    return f"{value:.4f}" if abs(value) < 1e5 else f"{value:.5g}"


def result_rows(split: str, results: Mapping[str, float], num_samples: int) -> dict[str, str]:
    """Return the rows of a split's results, and of the number of its samples."""
    rows = {f"{split} {name}".replace("_", " "): shown(value) for name, value in results.items()}
    return {**rows, f"{split} samples": f"{num_samples}"}


def print_table(title: str, rows: Mapping[str, str]) -> None:
    """Print names and values under a title."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        # Not markup: a path or the name of a metric may have brackets.
        table.add_row(Text(name), Text(value))
    console = Console(highlight=False)
    console.print()
    console.print(Text(title, style="bold"))
    console.print(table)
    console.print()
