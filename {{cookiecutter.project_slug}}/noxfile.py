# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""The project's checks: `nox` runs them all, `nox -s tests` one of them.

`uv run noxfile.py` does the same where nox is not installed.
"""

import nox

# Only uv reads UV_TORCH_BACKEND, which chooses PyTorch's build: CI needs no CUDA.
nox.options.default_venv_backend = "uv|venv"
nox.options.reuse_venv = "yes"

PROJECT = nox.project.load_toml("pyproject.toml")
LINT_GROUP = nox.project.dependency_groups(PROJECT, "lint")
DEV_GROUP = nox.project.dependency_groups(PROJECT, "dev")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style and formatting."""
    session.install(*LINT_GROUP)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")


@nox.session
def types(session: nox.Session) -> None:
    """Check types."""
    session.install("-e", ".", *DEV_GROUP)
    session.run("mypy")


@nox.session
def tests(session: nox.Session) -> None:
    """Run the tests."""
    session.install("-e", ".", *DEV_GROUP)
    session.run("pytest", *session.posargs)


if __name__ == "__main__":
    nox.main()
