"""Remove what the answers do not want, make a first commit, and say what to type next.

It runs in the rendered project folder.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

# As in pre_gen_project.py: JSON in a raw string cannot become code.
ANSWERS: dict[str, Any] = json.loads(r"""{{ cookiecutter | tojson }}""")

UNWANTED = {
    ".github": ANSWERS["ci"] != "github",
    ".gitlab-ci.yml": ANSWERS["ci"] != "gitlab",
}


def main() -> None:
    """Leave a project that is ready for work."""
    project = Path.cwd()
    remove_unwanted(project)
    print_next_steps(project, committed=first_commit(project))


def remove_unwanted(project: Path) -> None:
    """Remove the paths of the table; one that is not there means that the table is out of date."""
    for name, unwanted in UNWANTED.items():
        path = project / name
        if not path.exists():
            sys.exit(f"{name} is named in the post_gen hook, but the template has no such path")
        if unwanted and path.is_dir():
            shutil.rmtree(path)
        elif unwanted:
            path.unlink()


def first_commit(project: Path) -> str | None:
    """Commit everything in a new repository; return what came of it, None where none is made."""
    folders = [project, *project.parents]
    if shutil.which("git") is None or any((folder / ".git").exists() for folder in folders):
        return None
    try:
        git("init", "--quiet")
        git("add", "--all")
        # Hooks and signing keys of this user may ask questions; a rendered project has no answer.
        quiet = ["-c", "commit.gpgsign=false", "-c", f"core.hooksPath={os.devnull}"]
        git(*quiet, *identity(), "commit", "--quiet", "--message", "Start from the template")
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["git gave no reason"]
        return f"The first commit failed ({lines[-1]}): commit by hand."
    return "The files are committed in a new git repository."


def identity() -> list[str]:
    """Return git options that name the author, where this machine's git has no name for one."""
    options = []
    for key, answer in (
        ("user.name", ANSWERS["author_name"]),
        ("user.email", ANSWERS["author_email"] or "author@localhost"),
    ):
        if git("config", "--get", key, check=False).returncode != 0:
            options += ["-c", f"{key}={answer}"]
    return options


def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run git on this folder's repository, whatever repository the environment points at."""
    pointers = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE")
    environment = {name: text for name, text in os.environ.items() if name not in pointers}
    return subprocess.run(
        ["git", *arguments],
        check=check,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )


def print_next_steps(project: Path, *, committed: str | None) -> None:
    """Say where the project is and how it is trained."""
    if committed:
        print(committed)
    print(f"Next:\n  cd {project.name}\n  python -m pip install -e .")
    print(f"  python -m {ANSWERS['__package_name']}.train")


main()
