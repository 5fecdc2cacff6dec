"""How this program was started: by which module, under which launcher."""

import os
import sys


def program_name() -> str:
    """Return the module that `python -m` started."""
    spec = sys.modules["__main__"].__spec__
    return spec.name if spec else "PROGRAM"


def package_name() -> str:
    """Return the name of this project's package."""
    return __name__.partition(".")[0]


def accelerate_sets(name: str) -> bool:
    """Return whether `accelerate launch` has set ACCELERATE_`name`, such as USE_CPU, to true."""
    return os.environ.get(f"ACCELERATE_{name}", "").lower() == "true"
