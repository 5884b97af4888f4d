"""The wheel contains the package and none of its tests."""

from __future__ import annotations

import re
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEST_IMPORT = re.compile(
    r"^\s*(?:from|import) (?:pytest|hypothesis|tests|property_tests)\b", re.MULTILINE
)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Build the wheel and return the text of each file in it, by its path."""
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=120,
        check=True,
    )
    [built] = folder.iterdir()
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name).decode() for name in archive.namelist()}


def test_the_wheel_holds_the_package_with_its_sql_and_types(wheel: dict[str, str]) -> None:
    assert {"roost/__init__.py", "roost/py.typed", "roost/_sql/claim.sql"} <= wheel.keys()
    assert {name.split("/")[0] for name in wheel if ".dist-info/" not in name} == {"roost"}


def test_no_code_of_the_tests_is_in_the_wheel(wheel: dict[str, str]) -> None:
    assert [name for name, text in wheel.items() if TEST_IMPORT.search(text)] == []
    assert [name for name in wheel if re.search(r"/(conftest|test_)", name)] == []
