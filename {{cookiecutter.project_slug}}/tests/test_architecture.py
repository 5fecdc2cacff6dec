"""The folders are the architecture: each imports only those before it, and modules stay small."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from .launching import PACKAGE, SOURCES

ROOT = SOURCES / PACKAGE
FOLDERS = ["settings", "distributed", "batches", "exact", "checkpoint", "run"]
# The programs and the files that a user replaces; these may import everything.
TOP = ["train", "evaluate", "predict", "config", "data", "model", "optimizer", "pictures"]
MODULES = {
    path.relative_to(ROOT).with_suffix("").as_posix(): path
    for path in sorted(ROOT.rglob("*.py"))
    if path.name != "__init__.py"
}


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
            target = "/".join([*base, *(node.module or "").split(".")]).strip("/")
            assert target in MODULES, f"{module} imports {target}"
            yield target


def folder_of(module: str) -> str:
    return module.partition("/")[0] if "/" in module else "top"


def test_every_folder_has_a_place_in_the_order_and_says_what_it_is_for() -> None:
    assert {folder_of(module) for module in MODULES} == {*FOLDERS, "reference", "top"}
    assert {module for module in MODULES if "/" not in module} == set(TOP)
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

    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


@pytest.mark.parametrize("module", MODULES)
def test_a_module_has_less_than_200_lines_and_a_function_less_than_50(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert len(text.splitlines()) < 200
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            most = 100 if node.name == "train" and folder_of(module) in ("reference", "top") else 50
            assert (node.end_lineno or 0) - node.lineno < most, node.name


def test_a_step_can_be_understood_from_eleven_files() -> None:
    """From the samples to the new weights; not what reaches disk and screen."""
    names = [
        *("train", "data", "model", "optimizer"),
        *("batches/plan", "batches/sampling", "batches/seeds", "batches/loaders"),
        *("exact/step", "exact/gradients", "exact/tree"),
    ]
    lines = sum(len(MODULES[name].read_text(encoding="utf-8").splitlines()) for name in names)

    assert len(names) == 11 and lines <= 1250
