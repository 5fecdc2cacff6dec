"""What becomes of the answers when the rendered project is packaged."""

import email
import email.message
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from .rendering import LICENSES, LONG, files_under, render
from .soundness import author_of, with_defaults


def build(project: Path) -> tuple[Path, Path]:
    """Return the wheel and the sdist of a project; nothing is downloaded for it."""
    result = subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", str(project)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    [wheel], [sdist] = (project / "dist").glob("*.whl"), (project / "dist").glob("*.tar.gz")
    return wheel, sdist


def metadata_of(wheel: Path) -> email.message.Message:
    with zipfile.ZipFile(wheel) as archive:
        [name] = [name for name in archive.namelist() if name.endswith(".dist-info/METADATA")]
        return email.message_from_string(archive.read(name).decode("utf-8"))


def assert_package_is_sound(project: Path, answers: Mapping[str, str]) -> None:
    """Build sdist and wheel in a copy, and read answers and files back from both."""
    copy = project.parent / "built" / project.name
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns("__pycache__", ".git"))
    shipped = files_under(copy)
    wheel, sdist = build(copy)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
        [licence] = [name for name in archive.namelist() if name.endswith("/licenses/LICENSE")]
        assert archive.read(licence) == (project / "LICENSE").read_bytes()
    assert packed == {name.removeprefix("src/") for name in shipped if name.startswith("src/")}
    # Without it, type checkers ignore the types of an installed package.
    assert f"{project.name.replace('-', '_')}/py.typed" in packed
    with tarfile.open(sdist) as archive:
        packed = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    assert packed - {"PKG-INFO"} == shipped
    assert_metadata_reads_back(metadata_of(wheel), answers)


def assert_metadata_reads_back(metadata: email.message.Message, answers: Mapping[str, str]) -> None:
    given = with_defaults(answers)
    author = {"name": given["author_name"]}
    if given["author_email"]:
        author["email"] = given["author_email"]
    assert metadata["Name"] == given["project_slug"]
    assert metadata["Summary"] == given["description"]
    assert author_of(metadata) == author
    assert metadata["License-Expression"].removeprefix("LicenseRef-") == given["license"]
    private = "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    assert private == (given["license"] == "Proprietary")


@pytest.mark.parametrize("license_name", LICENSES)
@pytest.mark.parametrize("address", ["", "o'neill+runs@mail.example.org"])
def test_sdist_and_wheel_hold_all_files_and_the_answers(
    license_name: str, address: str, tmp_path: Path
) -> None:
    answers = {**LONG, "license": license_name, "author_email": address}
    assert render(tmp_path / "out", answers).returncode == 0
    assert_package_is_sound(tmp_path / "out" / LONG["project_slug"], answers)
