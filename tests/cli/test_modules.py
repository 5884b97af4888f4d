"""``-m`` imports modules and finds their tasks."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from roost import DuplicateTaskError
from roost.cli.modules import load

ONE = """
import roost
registry = roost.HandlerRegistry()

@roost.cron("0 3 * * *", name="nightly", handler_registry=registry)
@roost.job("sweep", queue="mail", registry=registry)
def sweep(): pass
"""
TWO = """
import roost
registry = roost.HandlerRegistry()

@roost.job("{name}", run_in="process", registry=registry)
def other(): pass
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make the test's folder the current one, and forget its modules afterwards."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    for name in ("registry_one", "registry_two"):
        monkeypatch.setitem(sys.modules, name, None)
        del sys.modules[name]
    (tmp_path / "registry_one.py").write_text(ONE)
    (tmp_path / "registry_two.py").write_text(TWO.format(name="other"))
    return tmp_path


def test_a_single_registry_is_returned_itself(folder: Path) -> None:
    registry = load(["registry_one:registry", "registry_one:registry"]).registry
    assert registry is sys.modules["registry_one"].registry


def test_several_registries_are_merged_with_all_their_declarations(folder: Path) -> None:
    registry = load(["registry_one:registry", "registry_two:registry"]).registry
    assert sorted(registry) == ["other", "sweep"]
    assert registry.handler_of("sweep").defaults.queue == "mail"
    assert registry.handler_of("other").run_in == "process"
    [entry] = registry.cron_entries
    assert (entry.name, entry.task, entry.expression) == ("nightly", "sweep", "0 3 * * *")


def test_two_functions_of_one_name_are_refused(folder: Path) -> None:
    (folder / "registry_two.py").write_text(TWO.format(name="sweep"))
    with pytest.raises(DuplicateTaskError, match="sweep"):
        load(["registry_one:registry", "registry_two:registry"])
