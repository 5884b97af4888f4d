"""dev.lock has the packages that pyproject.toml requires, with a hash for each file and no host."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[2]
PIN = re.compile(r"^(?P<name>[\w.-]+)==(?P<version>[^\s;]+)(?P<rest>.*(?:\n[ ]+.*)*)", re.MULTILINE)


def pins(lock: str) -> dict[str, re.Match[str]]:
    """Return the packages of a lock by name."""
    return {match["name"]: match for match in PIN.finditer(text(lock))}


def text(lock: str) -> str:
    return (ROOT / lock).read_text(encoding="utf-8")


def asked_for() -> list[tuple[str, str]]:
    """Return each requirement of pyproject.toml with the lock that answers it."""
    settings = tomllib.loads(text("pyproject.toml"))
    project, groups = settings["project"], settings["dependency-groups"]
    extras = [line for extra in project["optional-dependencies"].values() for line in extra]
    build = settings["build-system"]["requires"]
    dev = {*build, *project["dependencies"], *extras, *groups["dev"]}
    return [("dev.lock", line) for line in sorted(dev)] + [
        ("docs.lock", line) for line in groups["docs"]
    ]


@pytest.mark.parametrize(("lock", "line"), asked_for())
def test_a_lock_has_what_the_project_asks_for(lock: str, line: str) -> None:
    requirement = Requirement(line)
    pin = pins(lock).get(canonicalize_name(requirement.name))
    assert pin, "run `python3 dev.py lock`"
    assert requirement.specifier.contains(pin["version"], prereleases=True)


@pytest.mark.parametrize("lock", ["dev.lock", "docs.lock"])
def test_every_pin_has_a_hash(lock: str) -> None:
    assert len(pins(lock)) > 20
    assert [name for name, pin in pins(lock).items() if "--hash=sha256:" not in pin["rest"]] == []


@pytest.mark.parametrize("lock", ["dev.lock", "docs.lock"])
def test_a_lock_names_no_host(lock: str) -> None:
    assert "://" not in text(lock)
    assert "--index-url" not in text(lock)
