"""The JSON Schema of a task's args comes from its model, or from its function's annotations."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from pydantic import BaseModel, Field

from roost import HandlerRegistry, Job, State, job
from roost._model import args_schema as module
from roost._model.args_schema import args_schema


class Mail(BaseModel):
    to: str = Field(description="the address", alias="recipient")
    copies: int = 1


def schema_of(registry: HandlerRegistry) -> Any:
    [task] = registry
    text = args_schema(registry.handler_of(task))
    return None if text is None else json.loads(text)


def test_a_model_gives_its_schema_with_the_names_that_are_stored(registry: HandlerRegistry) -> None:
    @job("send", registry=registry, args_model=Mail)
    async def send(to: str, copies: int) -> None: ...

    found = schema_of(registry)
    assert set(found["properties"]) == {"to", "copies"}
    assert found["properties"]["to"]["description"] == "the address"
    assert found["required"] == ["to"]


def test_annotations_give_a_schema_without_what_the_worker_fills(registry: HandlerRegistry) -> None:
    @job("work", registry=registry)
    def work(
        at: datetime, job: Job, state: State, names: list[str] | None = None, *, n: int = 3
    ) -> None: ...

    found = schema_of(registry)
    assert set(found["properties"]) == {"at", "names", "n"}
    assert found["required"] == ["at"]
    assert found["properties"]["at"]["format"] == "date-time"
    assert found["properties"]["n"] == {"default": 3, "title": "N", "type": "integer"}
    assert found["additionalProperties"] is False


def test_a_function_that_takes_any_keyword_allows_more(registry: HandlerRegistry) -> None:
    @job("work", registry=registry)
    async def work(a, **more: Any) -> None: ...  # type: ignore[no-untyped-def]  # noqa: ANN001  (as some write)

    found = schema_of(registry)
    assert (found["required"], found["additionalProperties"]) == (["a"], True)


class Opaque:
    """No type that has a JSON form."""


def opaque(what: Opaque) -> None: ...
def private(_hidden: int) -> None: ...
def unknown(what: Missing) -> None: ...  # type: ignore[name-defined]  # noqa: F821  (as for type checkers only)


@pytest.mark.parametrize("func", [opaque, private, unknown])
def test_a_function_that_gives_no_schema_has_none(
    registry: HandlerRegistry, func: Callable[..., Any]
) -> None:
    registry.register("work", func)
    assert schema_of(registry) is None


def test_a_default_without_a_json_form_is_left_out(registry: HandlerRegistry) -> None:
    def work(what: Any = object(), copy: int = 1) -> None: ...  # noqa: B008  (as some write)

    registry.register("work", work)
    assert "default" not in schema_of(registry)["properties"]["what"]


@pytest.mark.parametrize("value", [float("inf"), float("nan"), "a\0b", "\ud800", {"a": ["\0"]}])
def test_only_the_default_that_cannot_be_stored_is_left_out(
    registry: HandlerRegistry, value: Any
) -> None:
    class Limits(BaseModel):
        default: Any = value
        copies: int = 1

    def work(at_most: Any = value, default: int = 3, limits: Any = None) -> None: ...

    work.__annotations__["limits"] = Limits
    registry.register("work", work)
    found = schema_of(registry)
    assert "default" not in found["properties"]["at_most"]
    assert found["properties"]["default"]["default"] == 3
    nested = found["$defs"]["Limits"]["properties"]
    assert ("default" in nested["default"], nested["copies"]["default"]) == (False, 1)
    assert "required" not in found


def test_a_long_schema_is_not_published(
    registry: HandlerRegistry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.register("work", lambda a: None, args_model=None)
    assert schema_of(registry) is not None
    monkeypatch.setattr(module, "MAX_SCHEMA_CHARS", 10)
    assert schema_of(registry) is None
