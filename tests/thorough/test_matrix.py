"""Every combination of the choices, checked as a whole; `nox -s matrix` says which run heavily."""

from pathlib import Path

import pytest

from ..test_build import assert_package_is_sound
from ..test_project import assert_own_tests_pass, assert_types_are_sound, assert_wheel_trains

# The own tests take six minutes on two cores, and twice that beside another session.
pytestmark = pytest.mark.timeout(3600)


def test_types_and_packages_are_sound(project: Path, answers: dict[str, str]) -> None:
    assert_types_are_sound(project)
    assert_package_is_sound(project, answers)


def test_it_installs_and_trains_and_its_tests_pass(project: Path, tmp_path: Path) -> None:
    assert_wheel_trains(project, tmp_path)
    assert_own_tests_pass(project)
