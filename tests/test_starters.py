"""What the files of each starter are held to, which a user's own need not be."""

import ast
from pathlib import Path

import pytest

from .rendering import PROJECT_TEMPLATE
from .rendering import STARTERS as NAMES

PACKAGE = PROJECT_TEMPLATE / "src" / "{{cookiecutter.__package_name}}"
STARTERS = [PROJECT_TEMPLATE / "starters" / name for name in NAMES]
USERS_FILES = ("config", "data", "model", "optimizer", "pictures", "predict")


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.name)
def test_a_starter_has_each_file_of_the_user_and_they_are_short(starter: Path) -> None:
    modules = [path for path in starter.glob("*.py") if not path.name.startswith("test_")]
    assert {path.stem for path in modules} == set(USERS_FILES)
    texts = {path: path.read_text(encoding="utf-8") for path in modules}
    assert sum(len(text.splitlines()) for text in texts.values()) < 520
    for path, text in texts.items():
        assert len(text.splitlines()) < 240, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < 50, (path, node.name)


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.name)
def test_a_starter_imports_relatively_and_not_from_programs(starter: Path) -> None:
    for path in starter.glob("[!t]*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                assert (node.module or "").split(".")[0] != "my_run", path
                assert not (node.level and node.module in ("train", "evaluate")), path


@pytest.mark.parametrize("starter", STARTERS, ids=lambda path: path.name)
def test_a_step_can_be_understood_from_eleven_files(starter: Path) -> None:
    """From the samples to the new weights; not what reaches disk and screen."""
    files = [
        PACKAGE / "train.py",
        *(starter / f"{name}.py" for name in ("data", "model", "optimizer")),
        *(PACKAGE / "batches" / f"{n}.py" for n in ("plan", "sampling", "seeds", "loaders")),
        *(PACKAGE / "exact" / f"{name}.py" for name in ("step", "gradients", "tree")),
    ]
    lines = sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)

    # Of which some 100 lines read files of a user's own data.
    assert len(files) == 11 and lines <= 1350


def test_every_test_of_the_engine_is_listed_in_test_architecture() -> None:
    """Only the listed ones are checked not to import the user's files."""
    source = (PROJECT_TEMPLATE / "tests" / "test_architecture.py").read_text(encoding="utf-8")
    [listed] = [
        {word.value for word in ast.walk(node.value) if isinstance(word, ast.Constant)}
        for node in ast.parse(source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "ENGINE_TESTS"
    ]
    files = {path.stem for path in (PROJECT_TEMPLATE / "tests").glob("[!_]*.py")}

    assert listed == files - {"test_starter"}
