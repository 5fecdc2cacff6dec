"""The engine: its folders import only those before them, its modules stay small, and its tests
know nothing of the job that this project trains."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter
from importlib import import_module
from pathlib import Path

import pytest

from .launching import PACKAGE, SOURCES, TESTS, USERS_FILES

ROOT = SOURCES / PACKAGE
FOLDERS = ["settings", "distributed", "batches", "exact", "checkpoint", "run"]
# These may import everything; what else is beside them and in other folders is the user's.
PROGRAMS = ["train", "evaluate", "export"]
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for folder in (*FOLDERS, "reference")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if path.name != "__init__.py"
} | {program: ROOT / f"{program}.py" for program in PROGRAMS}
# The files of the engine's tests; only test_starter.py looks at the user's files.
ENGINE_TESTS = [
    *("conftest", "launching", "test_agreement", "test_architecture", "test_checkpoint"),
    "test_config",
    *("test_data_parallel", "test_devices", "test_exact", "test_export", "test_figures"),
    *("test_launch", "test_optimizer", "test_peers", "test_placement", "test_profiling"),
    *("test_references", "test_resume", "test_run"),
    *("test_samples", "test_sampling", "test_schedule", "test_slurm", "test_start_up", "test_step"),
    *("test_surroundings", "test_train", "test_trial", "test_versions"),
]


def imported_by(module: str) -> Iterator[str]:
    """Yield the modules of the package that a module imports, at its top or in a function."""
    *folders, _ = module.split("/")
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not any(alias.name.split(".")[0] == PACKAGE for alias in node.names), module
        if not isinstance(node, ast.ImportFrom):
            continue
        assert (node.module or "").split(".")[0] != PACKAGE, f"{module}: use relative imports"
        if node.level:
            base = folders[: len(folders) - node.level + 1]
            for name in [node.module] if node.module else [alias.name for alias in node.names]:
                target = "/".join([*base, *name.split(".")])
                assert target in MODULES or target in USERS_FILES, f"{module} imports {target}"
                yield target


def folder_of(module: str) -> str:
    return module.partition("/")[0] if "/" in module else "top"


def test_every_folder_says_what_it_is_for() -> None:
    for folder in (*FOLDERS, "reference"):
        lines = (ROOT / folder / "__init__.py").read_text(encoding="utf-8").splitlines()
        assert len(lines) == 1 and lines[0].startswith('"""') and lines[0].endswith('"""')


@pytest.mark.parametrize("module", [name for name in MODULES if folder_of(name) in FOLDERS])
def test_a_folder_imports_only_those_before_it(module: str) -> None:
    place = FOLDERS.index(folder_of(module))
    allowed = {*FOLDERS[: place + 1]}

    assert {folder_of(name) for name in imported_by(module)} <= allowed


def test_no_imports_make_a_circle() -> None:
    graph = {module: set(imported_by(module)) for module in MODULES}

    assert set(MODULES) <= set(TopologicalSorter(graph).static_order())


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_less_than_200_lines_and_a_function_less_than_50(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = 100 if node.name == "train" and folder_of(module) in ("reference", "top") else 50
            assert (node.end_lineno or 0) - node.lineno < most, node.name


def imports_of(file: Path) -> Iterator[tuple[str, list[str]]]:
    """Yield the modules that a file imports, and the names that it takes from each."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, []) for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or ""), [alias.name for alias in node.names]


@pytest.mark.parametrize("name", [*ENGINE_TESTS, *(f"tiny/{name}" for name in USERS_FILES)])
def test_a_test_of_the_engine_imports_none_of_the_users_files(name: str) -> None:
    users = {f"{PACKAGE}.{file}" for file in (*USERS_FILES, "predict")}
    for module, names in imports_of(Path(__file__).parent / f"{name}.py"):
        imported = {module, *(f"{module}.{name}" for name in names)}
        assert not imported & users, f"{name}.py: use the tiny job; test yours in another file"


@pytest.mark.parametrize("program", [name for name in MODULES if folder_of(name) not in FOLDERS])
def test_the_tiny_job_has_what_a_program_imports_of_the_users_files(program: str) -> None:
    for module, names in imports_of(MODULES[program]):
        if module.strip(".") in USERS_FILES:
            tiny = import_module(f"{TESTS}.tiny.{module.strip('.')}")
            assert set(names) <= set(vars(tiny)), f"tests/tiny/{module.strip('.')}.py"
