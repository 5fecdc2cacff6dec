"""All jobs of other people, each in the starter's place."""

from pathlib import Path

import pytest

from ..test_jobs import JOBS, assert_bits_are_kept, make_project


@pytest.mark.parametrize("name", sorted(path.name for path in JOBS.iterdir() if path.is_dir()))
def test_a_job_keeps_its_bits(name: str, default_project: Path, tmp_path: Path) -> None:
    assert_bits_are_kept(make_project(name, default_project, tmp_path), tmp_path)
