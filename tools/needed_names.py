"""Write the generated part of needed_names.txt: what is installed here, under all of its names.

`nox -s needed_names` runs it where the project, its extras and the template's tools are installed.
"""

import importlib.metadata
import re
from pathlib import Path

from packaging.requirements import Requirement

FILE = Path(__file__).parents[1] / "needed_names.txt"
# What a slug can become: neither private modules nor __pycache__.
PACKAGE_NAME = re.compile("[a-z][a-z0-9]*(_[a-z0-9]+)*")


def main() -> None:
    """Replace what follows the last comment in the file; the names above it are kept by hand."""
    lines = FILE.read_text(encoding="utf-8").splitlines()
    last_comment = max(index for index, line in enumerate(lines) if line.startswith("#"))
    by_hand = lines[: last_comment + 1]
    generated = sorted(installed_names() - set(by_hand))
    FILE.write_text("\n".join([*by_hand, *generated, ""]), encoding="utf-8", newline="\n")


def installed_names() -> set[str]:
    """Return the names of all distributions and modules here, as a package would be called."""
    modules = {module.lower() for module in importlib.metadata.packages_distributions()}
    distributions = set()
    for distribution in importlib.metadata.distributions():
        distributions.add(distribution.name)
        # A requirement may hold under another system or Python only, and is not installed here.
        for text in distribution.requires or []:
            # Of an extra; some packages misspell those.
            if "extra ==" not in text:
                distributions.add(Requirement(text).name)
    names = modules | {re.sub("[-_.]+", "_", name).lower() for name in distributions}
    return {name for name in names if PACKAGE_NAME.fullmatch(name)}


if __name__ == "__main__":
    main()
