"""Remove what the answers do not want, name the package, make a first commit, say what is next.

It runs in the rendered project folder. No answer is pasted into its code: JSON in a raw string
escapes every quote and every control character, so that none can end the string. It imports
little, because every rendering waits for it.
"""

import json
import os
import subprocess
import sys

ANSWERS = json.loads(r"""{{ cookiecutter | tojson }}""")
# Answers that cookiecutter replays from a file were not checked at the questions.
[FAULT] = json.loads(r"""[{{ cookiecutter | fault | tojson }}]""")

UNWANTED = {
    ".github/workflows/tests.yml": ANSWERS["ci"] != "github",
    ".gitlab-ci.yml": ANSWERS["ci"] != "gitlab",
}
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
    remove_unwanted()
    if ANSWERS["__package_name"] != DEFAULT_PACKAGE:
        name_package()
    if "_commit" in ANSWERS:
        # Cruft compares whole renderings, in which a repository would be one great difference,
        # and it writes its file after this hook.
        print("Commit the project with its .cruft.json: cruft updates what is committed.")
        return
    make_first_commit()
    # A terminal that cannot show the path must not fail the rendering.
    encoding = sys.stdout.encoding
    folder = os.getcwd()
    folder = folder.encode(encoding, "replace").decode(encoding)
    quote = '"' if " " in folder else ""
    print(f"Next:\n  cd {quote}{folder}{quote}\n  python -m pip install -e .")
    print(f"  python -m {ANSWERS['__package_name']}.train")


def remove_unwanted() -> None:
    """Remove the files of the table; one that is not there means that the table is out of date."""
    for path, unwanted in UNWANTED.items():
        if not os.path.exists(path):
            sys.exit(f"{path} is named in the post_gen hook, but the template has no such path")
        if unwanted:
            os.remove(path)
            folder = os.path.dirname(path)
            if folder and not os.listdir(folder):
                os.removedirs(folder)


def name_package() -> None:
    """Write the package's name in place of the default one."""
    for folder in NAMING_FOLDERS:
        for name in os.listdir(folder):
            if name.endswith((".py", ".yaml")):
                path = os.path.join(folder, name)
                # No newline is translated, on no system.
                with open(path, encoding="utf-8", newline="") as file:
                    text = file.read()
                with open(path, "w", encoding="utf-8", newline="") as file:
                    file.write(text.replace(DEFAULT_PACKAGE, ANSWERS["__package_name"]))


def make_first_commit() -> None:
    """Commit everything in a new repository, where git is there and the folder is in none."""
    if in_repository(os.getcwd()):
        return
    try:
        git("init", "--quiet")
        git("-c", "core.looseCompression=0", "add", "--all")
        git(*QUIET, *identity(), "commit", "--quiet", "--message", "Start from the template")
    except OSError:
        return
    except subprocess.CalledProcessError as error:
        lines = error.stderr.strip().splitlines() or ["git gave no reason"]
        # Unlike stdout, stderr can print any character on every system.
        print(f"The first commit failed ({lines[-1]}): commit by hand.", file=sys.stderr)
        return
    print("The files are committed in a new git repository.")


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
