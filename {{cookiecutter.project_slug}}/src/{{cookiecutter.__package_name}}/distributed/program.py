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


def accelerate_says(name: str) -> bool:
    """Return whether `accelerate launch` has set one of its switches, such as USE_CPU."""
    return os.environ.get(f"ACCELERATE_{name}", "").lower() == "true"
