"""Keep the files that the answers ask for, name the package, make a first commit, say what is next.

It runs in the rendered project folder. No answer is pasted into its code: JSON in a raw string
escapes every quote and every control character, so that none can end the string. It imports
little, because every rendering waits for it.
"""

import itertools
import json
import os
import shlex
import subprocess
import sys

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
# Answers that cookiecutter replays from a file were not checked at the questions.
[FAULT] = json.loads(r"""[{{ cookiecutter | fault | tojson }}]""")

CI_FILES = {"github": ".github/workflows/tests.yml", "gitlab": ".gitlab-ci.yml", "none": None}
# Its folders hold the files that differ by starter: tests, and modules of the package.
STARTERS = "starters"
# Files here are copied with the package's default name, so that ruff and an editor read them in the
# template, and no rendering waits for Jinja to compile each.
NAMING_FOLDERS = ("launch", "tests")
DEFAULT_PACKAGE = "my_run"
# What points git at another repository, as it does in the hooks of one.
GIT_POINTERS = ["GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_COMMON_DIR", "GIT_NAMESPACE"]
GIT_POINTERS += ["GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_PREFIX"]
# Hooks and signing keys of this user may ask questions, and a rendering has no answer to them; the
# folder of hooks is one that is on no system. A new repository needs no maintenance.
QUIET = ["-c", "commit.gpgsign=false", "-c", "core.hooksPath=.git/no-hooks"]
QUIET += ["-c", "maintenance.auto=false"]


def main() -> None:
    """Leave a project that is ready for work."""
    if FAULT:
        sys.exit(FAULT)
    remove_other_services()
    put_starter_in_place()
    if ANSWERS["__package_name"] != DEFAULT_PACKAGE:
        name_package()
    if "_commit" in ANSWERS:
        # Cruft compares whole renderings, in which a repository would be one great difference,
        # and it writes its file after this hook.
        say("Commit the project with its .cruft.json: cruft updates what is committed.")
        return
    lines = ["The files are committed in a new git repository."] if make_first_commit() else []
    folder = os.getcwd()
    quoted = subprocess.list2cmdline([folder]) if os.name == "nt" else shlex.quote(folder)
    say(
        *lines,
        "Next:",
        f"  cd {quoted}",
        "  python -m pip install -e .",
        f"  python -m {ANSWERS['__package_name']}.train",
    )


def say(*lines: str) -> None:
    """Print lines; where nobody reads them, or a terminal lacks a sign, the project still stands.

    Cookiecutter removes the project of a hook that fails.
    """
    if sys.stdout is None:
        return
    encoding = sys.stdout.encoding
    try:
        print("\n".join(lines).encode(encoding, "replace").decode(encoding), flush=True)
    except OSError:
        # Python tries once more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def remove_other_services() -> None:
    """Remove the files of the services that were not chosen.

    One that is not there means that the table is out of date.
    """
    if ANSWERS["ci"] not in CI_FILES:
        sys.exit(f"ci ({ANSWERS['ci']!r}) is none of {', '.join(CI_FILES)}; try 'none'")
    for service, path in CI_FILES.items():
        if path and not os.path.exists(path):
            sys.exit(f"{path} is named in the post_gen hook, but the template has no such path")
        if path and service != ANSWERS["ci"]:
            make_writable(path)
            os.remove(path)
            folder = os.path.dirname(path)
            if folder and not os.listdir(folder):
                os.removedirs(folder)


def put_starter_in_place() -> None:
    """Move the chosen starter's files to the package and the tests, and remove the others."""
    if ANSWERS["starter"] not in os.listdir(STARTERS):
        sys.exit(f"starter ({ANSWERS['starter']!r}) is none of {', '.join(os.listdir(STARTERS))}")
    chosen = os.path.join(STARTERS, ANSWERS["starter"])
    for folder, _, names in os.walk(STARTERS, topdown=False):
        for name in names:
            path = os.path.join(folder, name)
            make_writable(path)
            if folder != chosen:
                os.remove(path)
            elif name.startswith("test_"):
                os.rename(path, os.path.join("tests", name))
            else:
                os.rename(path, os.path.join("src", ANSWERS["__package_name"], name))
        os.rmdir(folder)


def make_writable(path: str) -> None:
    """Let a file be changed that has the mode of a template that may only be read."""
    os.chmod(path, os.stat(path).st_mode | 0o200)


def name_package() -> None:
    """Write the package's name in place of the default one."""
    for folder, _, names in itertools.chain(*map(os.walk, NAMING_FOLDERS)):
        for name in names:
            if name.endswith((".py", ".sbatch", ".yaml")):
                path = os.path.join(folder, name)
                make_writable(path)
                # No newline is translated, on no system.
                with open(path, encoding="utf-8", newline="") as file:
                    text = file.read()
                with open(path, "w", encoding="utf-8", newline="") as file:
                    file.write(text.replace(DEFAULT_PACKAGE, ANSWERS["__package_name"]))


def make_first_commit() -> bool:
    """Commit everything in a new repository, where git is there and the folder is in none.

    Returns:
        Whether there is a commit.
    """
    if in_repository(os.getcwd()):
        return False
    try:
        git("init", "--quiet")
        # What this user ignores in other projects belongs to this one.
        git("-c", "core.looseCompression=0", "-c", "core.excludesFile=", "add", "--all")
        git(*QUIET, *identity(), "commit", "--quiet", "--message", "Start from the template")
    except OSError:
        return False
    except (subprocess.CalledProcessError, UnicodeEncodeError) as error:
        # Not every system can pass every name on to a program.
        said = getattr(error, "stderr", str(error)).strip() or "git gave no reason"
        # Unlike stdout, stderr can print any character on every system.
        print(
            f"The first commit failed ({said.splitlines()[-1]}): commit by hand.", file=sys.stderr
        )
        return False
    return True


def in_repository(folder: str) -> bool:
    """Return whether this folder or one above it is a git repository or a work tree of one."""
    parent = os.path.dirname(folder)
    found = os.path.exists(os.path.join(folder, ".git"))
    return found or (parent != folder and in_repository(parent))


def identity() -> list[str]:
    """Return git options that name the author, where this machine's git has no name for one."""
    known = git("config", "--get-regexp", r"^user\.(name|email)$", check=False).stdout
    options = []
    for key, answer in (
        ("user.name", ANSWERS["author_name"]),
        ("user.email", ANSWERS["author_email"] or "author@localhost"),
    ):
        if f"\n{key} " not in f"\n{known}":
            options += ["-c", f"{key}={answer}"]
    return options


def git(*arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run git on this folder's repository, whatever repository the environment points at."""
    environment = {name: text for name, text in os.environ.items() if name not in GIT_POINTERS}
    return subprocess.run(
        ["git", *arguments],
        check=check,
        capture_output=True,
        text=True,
        errors="replace",
        env=environment,
    )


main()
