"""What becomes of the answers when the rendered project is packaged."""

import email
import email.message
import email.utils
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from .rendering import LICENSES, files_under, render

AWKWARD = {
    "project_name": "Ünïcödé \U0001f389 Runs",
    "project_slug": "awkward",
    "description": 'A "quoted" \\ sentence: {with} <everything> \U0001f389',
    "author_name": 'O\'Neill "Ada" Müller',
}


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


@pytest.mark.parametrize("license_name", LICENSES)
@pytest.mark.parametrize("address", ["", "o'neill+runs@mail.example.org"])
def test_metadata_reads_back_awkward_answers(
    license_name: str, address: str, tmp_path: Path
) -> None:
    answers = {**AWKWARD, "license": license_name, "author_email": address}
    assert render(tmp_path / "out", answers).returncode == 0
    metadata = metadata_of(build(tmp_path / "out" / "awkward")[0])
    assert metadata["Name"] == AWKWARD["project_slug"]
    assert metadata["Summary"] == AWKWARD["description"]
    if address:
        assert email.utils.parseaddr(metadata["Author-email"]) == (AWKWARD["author_name"], address)
    else:
        assert metadata["Author"] == AWKWARD["author_name"]
        assert "Author-email" not in metadata
    assert metadata["License-Expression"].removeprefix("LicenseRef-") == license_name
    private = "Private :: Do Not Upload" in metadata.get_all("Classifier", [])
    assert private == (license_name == "Proprietary")


def test_the_wheel_holds_the_package_and_the_sdist_the_whole_project(tmp_path: Path) -> None:
    assert render(tmp_path / "out", {}).returncode == 0
    project = tmp_path / "out" / "my-run"
    shipped = files_under(project)
    wheel, sdist = build(project)
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert packed == {name.removeprefix("src/") for name in shipped if name.startswith("src/")}
    with tarfile.open(sdist) as archive:
        packed = {member.name.split("/", 1)[1] for member in archive if member.isfile()}
    assert packed - {"PKG-INFO"} == shipped
