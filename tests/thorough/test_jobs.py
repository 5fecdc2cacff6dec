"""All jobs of other people, each in a starter's place, and the starters themselves."""

from pathlib import Path

import pytest

from ..test_jobs import NAMES, assert_bits_are_kept


@pytest.mark.parametrize("name", NAMES)
def test_a_job_keeps_its_bits(name: str, tmp_path: Path) -> None:
    assert_bits_are_kept(name, tmp_path)
