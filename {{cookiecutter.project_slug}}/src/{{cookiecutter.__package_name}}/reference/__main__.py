"""Show where two programs differ, side by side: `python -m` this package, `single ddp`."""

import difflib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import tyro
from rich.console import Console
from rich.syntax import Syntax
from rich.table import Table
from rich.text import Text

from ..settings.command_line import parse_command_line
from ..settings.errors import errors_in_one_line

Program = Literal["single", "data_parallel", "ddp", "fsdp2", "train"]
CONTEXT_LINES = 1
CHANGED = "on grey19"


@dataclass(frozen=True)
class CompareConfig:
    """Show where two programs differ, side by side."""

    left: tyro.conf.Positional[Program] = "single"
    """The program on the left."""

    right: tyro.conf.Positional[Program] = "ddp"
    """The program on the right."""


class Row(NamedTuple):
    """Two lines beside each other; the mark is that of `diff --side-by-side`."""

    left: str
    mark: Literal[" ", "|", "<", ">"]
    right: str


def read_program(name: str) -> list[str]:
    """Return the lines of a program after its docstring, with imports as in `train.py`."""
    folder = Path(__file__).parent
    file = folder.parent / "train.py" if name == "train" else folder / f"{name}.py"
    _, _, text = file.read_text(encoding="utf-8").split('"""', maxsplit=2)
    text = text.strip() + "\n"
    return re.sub(r"^from \.\.", "from .", text, flags=re.MULTILINE).splitlines()


def compare(left: list[str], right: list[str]) -> Iterator[tuple[str, list[Row]]]:
    """Yield the differences of two programs, each after the phase of the run that it is in."""
    matcher = difflib.SequenceMatcher(None, left, right, autojunk=False)
    for group in matcher.get_grouped_opcodes(CONTEXT_LINES):
        rows: list[Row] = []
        for tag, left_start, left_end, right_start, right_end in group:
            lines, others = left[left_start:left_end], right[right_start:right_end]
            for index in range(max(len(lines), len(others))):
                line = lines[index] if index < len(lines) else None
                other = others[index] if index < len(others) else None
                mark: Literal[" ", "|", "<", ">"] = "|" if tag != "equal" else " "
                mark = ">" if line is None else "<" if other is None else mark
                rows.append(Row(line or "", mark, other or ""))
        yield _phase(left, group[0][1]), rows


def _phase(lines: list[str], position: int) -> str:
    """Return the phase that a line is in; outside all phases, Imports or Entry point."""
    before = "\n".join(lines[: position + CONTEXT_LINES + 1])
    if "\nif __name__" in before:
        return "Entry point"
    headings = re.findall(r"^ +# ([A-Z][a-z]+)$", before, re.MULTILINE)
    return headings[-1] if headings else "Imports"


def print_plain(config: CompareConfig, hunks: list[tuple[str, list[Row]]]) -> None:
    """Print hunks as text, in columns as wide as the widest line."""
    width = max((len(row.left) for _, rows in hunks for row in rows), default=0)
    print(f"{config.left + '.py':<{width}}   {config.right}.py")
    for phase, rows in hunks:
        print(f"\n{phase}")
        for row in rows:
            print(f"{row.left:<{width}} {row.mark} {row.right}".rstrip())


def print_in_colour(
    console: Console, config: CompareConfig, hunks: list[tuple[str, list[Row]]]
) -> None:
    """Print hunks as two columns of highlighted code that share the terminal's width."""
    syntax = Syntax("", "python", theme="ansi_dark", background_color="default")

    def highlighted(line: str, is_changed: bool) -> Text:
        text = syntax.highlight(line)
        text.rstrip()
        text.no_wrap, text.overflow = False, "fold"
        if is_changed:
            text.stylize(CHANGED)
        return text

    table = Table(f"{config.left}.py", "", f"{config.right}.py", box=None, expand=True)
    table.columns[0].ratio = table.columns[2].ratio = 1
    for phase, rows in hunks:
        table.add_row(Text(f"\n{phase}", style="bold"))
        for row in rows:
            is_changed = row.mark != " "
            table.add_row(
                highlighted(row.left, is_changed), row.mark, highlighted(row.right, is_changed)
            )
    console.print(table)


def main() -> None:
    """Compare the two programs of the command line."""
    with errors_in_one_line():
        config = parse_command_line(CompareConfig)
        hunks = list(compare(read_program(config.left), read_program(config.right)))
        console = Console(highlight=False)
        if console.is_terminal:
            print_in_colour(console, config, hunks)
        else:
            print_plain(config, hunks)


if __name__ == "__main__":
    main()
