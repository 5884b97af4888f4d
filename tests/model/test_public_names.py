"""The names of `roost.__all__` are shown, pickled and resolved as ``roost.<name>``."""

from __future__ import annotations

import dataclasses
import inspect
import pickle
import pydoc
import traceback
import typing
from importlib import metadata

import attrs
import pytest
from pydantic import TypeAdapter

import roost
from roost import RoostError

CLASSES = [name for name in roost.__all__ if inspect.isclass(getattr(roost, name))]
FUNCTIONS = [name for name in roost.__all__ if name not in CLASSES]
ERRORS = [name for name in CLASSES if issubclass(getattr(roost, name), RoostError)]


@pytest.mark.parametrize("name", roost.__all__)
def test_a_public_name_shows_as_a_name_of_roost(name: str) -> None:
    value = getattr(roost, name)
    assert (value.__module__, value.__qualname__) == ("roost", name)
    assert pickle.loads(pickle.dumps(value)) is value
    assert pydoc.plain(pydoc.render_doc(value)).splitlines()[0].endswith("in module roost")
    if name in CLASSES:
        assert repr(value) in (f"<class 'roost.{name}'>", f"<enum '{name}'>")


@pytest.mark.parametrize("name", ERRORS)
def test_a_traceback_names_an_error_as_users_catch_it(name: str) -> None:
    kind = getattr(roost, name)
    error = kind.__new__(kind)
    assert traceback.format_exception_only(error)[-1].startswith(f"roost.{name}")


@pytest.mark.parametrize("name", roost.__all__)
def test_the_types_of_a_public_name_can_be_read(name: str) -> None:
    value = getattr(roost, name)
    typing.get_type_hints(value)
    if name in CLASSES:
        typing.get_type_hints(value.__init__)
        if attrs.has(value):
            attrs.resolve_types(value)


@pytest.mark.parametrize(
    "name", [each for each in CLASSES if dataclasses.is_dataclass(getattr(roost, each))]
)
def test_pydantic_reads_the_data_classes(name: str) -> None:
    TypeAdapter(getattr(roost, name)).json_schema()


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_source_of_a_public_function_is_found(name: str) -> None:
    assert f"def {name}(" in inspect.getsource(getattr(roost, name))


def test_the_version_is_that_of_the_installed_package() -> None:
    assert roost.__version__ == metadata.version("anyroost")
