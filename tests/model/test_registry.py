"""The registry finds handlers by task name, and decorated functions are unchanged."""

from __future__ import annotations

import functools
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from pydantic import BaseModel

from roost import (
    DuplicateTaskError,
    HandlerRegistry,
    InvalidSettingError,
    TaskDefaults,
    UnknownTaskError,
    cron,
    fixed,
    job,
)
from roost._model.registry import default_registry


class Args(BaseModel):
    a: int


def test_the_function_is_returned_untouched(registry: HandlerRegistry) -> None:
    def add(a: int, b: int = 2) -> int:
        return a + b

    decorated = job("add", registry=registry)(add)
    assert decorated is add
    assert decorated(1) == 3
    assert vars(add) == {}


async def a_coroutine() -> None: ...


def test_every_declaration_is_kept(registry: HandlerRegistry) -> None:
    @job(
        "full",
        args_model=Args,
        queue="q",
        priority=-3,
        max_attempts=2,
        tags=["x", "y"],
        timeout_seconds=5,
        rate_per_minute=60,
        max_concurrency=1,
        registry=registry,
    )
    async def full(a: int) -> None: ...

    handler = registry.handler_of("full")
    assert (handler.name, handler.func, handler.args_model) == ("full", full, Args)
    assert handler.defaults == TaskDefaults(
        queue="q",
        priority=-3,
        max_attempts=2,
        tags=("x", "y"),
        timeout_seconds=5,
        rate_per_minute=60,
        max_concurrency=1,
    )


def test_the_shared_registry_is_the_default() -> None:
    name = "tests.model.test_registry.default"
    job(name)(a_coroutine)
    assert name in default_registry
    assert name not in HandlerRegistry()


def test_names_and_functions_are_found(registry: HandlerRegistry) -> None:
    registry.register("one", a_coroutine)
    assert "one" in registry
    assert "two" not in registry
    assert list(registry) == ["one"]
    assert len(registry) == 1
    assert registry.name_of(a_coroutine) == "one"
    with pytest.raises(UnknownTaskError, match="two"):
        registry.handler_of("two")
    with pytest.raises(UnknownTaskError, match="decorate it"):
        registry.name_of(len)


def test_two_functions_of_one_name_are_refused(registry: HandlerRegistry) -> None:
    registry.register("one", a_coroutine)
    with pytest.raises(DuplicateTaskError, match="a_coroutine"):
        registry.register("one", test_two_functions_of_one_name_are_refused)
    assert registry.handler_of("one").func is a_coroutine


def test_registering_a_function_again_replaces_its_declarations(registry: HandlerRegistry) -> None:
    registry.register("one", a_coroutine)
    registry.register("one", a_coroutine, defaults=TaskDefaults(queue="q"))
    assert registry.handler_of("one").defaults.queue == "q"


MODULE = """
from roost import job

@job("task", registry=registry)
async def task():
    return {result}
"""


def load(path: Path, registry: HandlerRegistry) -> ModuleType:
    spec = importlib.util.spec_from_file_location("reloaded_tasks", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    vars(module)["registry"] = registry
    spec.loader.exec_module(module)
    return module


def test_a_reloaded_module_replaces_its_tasks(
    registry: HandlerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    path = tmp_path / "reloaded_tasks.py"
    path.write_text(MODULE.format(result="1"))
    old = load(path, registry)
    path.write_text("# one line more\n" + MODULE.format(result="22"))
    new = load(path, registry)
    assert registry.handler_of("task").func is new.task
    assert registry.name_of(new.task) == "task"
    assert old.task is not new.task


def test_functions_of_two_files_are_not_the_same(registry: HandlerRegistry, tmp_path: Path) -> None:
    for name in ("a.py", "b.py"):
        (tmp_path / name).write_text(MODULE.format(result="1"))
    load(tmp_path / "a.py", registry)
    with pytest.raises(DuplicateTaskError):
        load(tmp_path / "b.py", registry)


class AsyncCallable:
    async def __call__(self) -> None: ...


class SyncCallable:
    def __call__(self) -> None: ...

    async def method(self) -> None: ...


def plain() -> None: ...


@pytest.mark.parametrize(
    ("func", "is_async"),
    [
        (a_coroutine, True),
        (plain, False),
        (functools.partial(a_coroutine), True),
        (functools.partial(functools.partial(a_coroutine)), True),
        (functools.partial(plain), False),
        (AsyncCallable(), True),
        (SyncCallable(), False),
        (SyncCallable().method, True),
        (functools.partial(AsyncCallable()), True),
        (lambda: None, False),
        (len, False),
    ],
)
def test_a_handler_is_known_as_async_or_blocking(
    registry: HandlerRegistry, func: Any, is_async: bool
) -> None:
    registry.register("task", func)
    assert registry.handler_of("task").is_async is is_async


@pytest.mark.parametrize("name", ["", "x" * 201, "a\0b", "\ud800", None, 7])
def test_unusable_names_are_refused(registry: HandlerRegistry, name: Any) -> None:
    with pytest.raises(InvalidSettingError, match="task"):
        job(name, registry=registry)(plain)
    assert len(registry) == 0


def test_an_object_that_can_not_be_called_is_refused(registry: HandlerRegistry) -> None:
    with pytest.raises(InvalidSettingError, match="callable"):
        registry.register("task", "a string")  # type: ignore[arg-type]  # the mistake under test


@pytest.mark.parametrize(
    ("option", "values"),
    [
        ("queue", ["", "x" * 201, 3, "\0"]),
        ("priority", ["1", 1.5, True, 2**31, -(2**31)]),
        ("max_attempts", [0, -1, "3", 2**31, False]),
        ("tags", ["one", [""], [None], 5]),
        ("timeout_seconds", [0, -1, 0.5, "1", True]),
        ("rate_per_minute", [0, -1, 1.5, "1", True]),
        ("max_concurrency", [0, -1, 1.5, "1", True]),
    ],
)
def test_defaults_out_of_range_are_refused_by_the_decorator(
    registry: HandlerRegistry, option: str, values: list[Any]
) -> None:
    for value in values:
        what = "tag" if option == "tags" else option
        with pytest.raises(InvalidSettingError, match=what):
            job("task", registry=registry, **{option: value})(plain)
        with pytest.raises(InvalidSettingError, match=what):
            TaskDefaults(**{option: value})
    assert len(registry) == 0


def test_a_bound_method_is_found_again() -> None:
    class Mailer:
        def send(self) -> None: ...

    registry, mailer = HandlerRegistry(), Mailer()
    registry.register("send", mailer.send)
    assert registry.name_of(mailer.send) == "send"
    with pytest.raises(UnknownTaskError):
        registry.name_of(Mailer().send)


def test_an_included_registry_keeps_all_that_its_tasks_declare() -> None:
    one, two = HandlerRegistry(), HandlerRegistry()

    @cron("* * * * *", args={"n": 1}, handler_registry=one)
    @job(
        "task",
        queue="mail",
        retry_on=OSError,
        discard_on=FileNotFoundError,
        retry_strategy=fixed(3),
        registry=one,
    )
    def task(n: int) -> None: ...

    two.include(one)
    assert two.handler_of("task") == one.handler_of("task")
    assert two.cron_entries == one.cron_entries
