"""A declaration that no job could use is refused at once, with file and line."""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, ConfigDict

from roost import (
    AsyncRoost,
    DuplicateTaskError,
    HandlerRegistry,
    Hooks,
    InvalidJobError,
    InvalidSettingError,
    Roost,
    Worker,
    WorkerSettings,
    cron,
    exponential,
    job,
)
from roost._model.limits import limit_key_of

DSN = "postgresql://h/d"
HERE = rf"\({__file__}:\d+\)"


class Args(BaseModel):
    a: int
    b: str = "x"


def takes(a: int, b: str) -> None: ...
def plain() -> None: ...


def test_a_decorator_without_parentheses_is_refused(registry: HandlerRegistry) -> None:
    with pytest.raises(InvalidSettingError, match=rf"@job\(.*with parentheses above .*{HERE}"):

        @job  # type: ignore[arg-type]  # the mistake under test
        async def one() -> None: ...

    with pytest.raises(InvalidSettingError, match=rf"@cron\(.*with parentheses above .*{HERE}"):

        @cron  # type: ignore[arg-type]  # the mistake under test
        async def two() -> None: ...


def test_a_class_is_refused(registry: HandlerRegistry) -> None:
    for decorate in (
        job("one", registry=registry),
        cron("* * * * *", handler_registry=registry),
    ):
        with pytest.raises(InvalidSettingError, match=r"Handler of .*test_declarations is a class"):

            @decorate
            class Handler:
                def __call__(self) -> None: ...

    assert len(registry) == 0


@pytest.mark.parametrize("model", [dict, int, Args(a=1), "Args", Args | None, dict[str, int]])
def test_an_args_model_that_is_not_a_model_is_refused(
    registry: HandlerRegistry, model: Any
) -> None:
    with pytest.raises(InvalidSettingError, match=rf"args_model must be a class.*takes {HERE}"):
        job("one", args_model=model, registry=registry)(takes)
    assert "one" not in registry


def test_a_model_that_does_not_fit_the_handler_is_refused(registry: HandlerRegistry) -> None:
    decorate = job("one", args_model=Args, registry=registry)
    with pytest.raises(InvalidSettingError, match=r"fields \['b'\], and .*has no parameters"):

        @decorate
        def no_b(a: int) -> None: ...

    with pytest.raises(InvalidSettingError, match=r"needs \['c'\], and Args has no fields"):

        @decorate
        def has_c(a: int, b: str, c: int) -> None: ...

    class Open(BaseModel):
        model_config = ConfigDict(extra="allow")

    for func in (takes, lambda a, b, c=0: None, lambda **all: None, functools.partial(takes, b="")):
        HandlerRegistry().register("one", func, args_model=Args)
    registry.register("open", takes, args_model=Open)


def test_a_positional_only_parameter_is_refused(registry: HandlerRegistry) -> None:
    def by_position(a: int, /) -> None: ...

    with pytest.raises(
        InvalidSettingError, match=rf"'a' of .*by_position {HERE} is positional-only"
    ):
        job("one", registry=registry)(by_position)


async def one_argument(job: object) -> None: ...
async def no_keyword(job: object, ctx: object) -> None: ...
async def before(job: object, *, ctx: object) -> None: ...
async def after(job: object, *, result: object, error: object, ctx: object) -> None: ...
async def generator(job: object, *, ctx: object) -> AsyncIterator[None]:
    yield


async def many(*args: object, **kwargs: object) -> None: ...


class HookObject:
    async def before_job(self, job: object, *, ctx: object) -> None: ...
    async def __call__(self, job: object, **kwargs: object) -> None: ...


@pytest.mark.parametrize(
    "hook", [one_argument, after, plain, generator, HookObject, HookObject.before_job, "text", 5]
)
def test_a_before_hook_with_a_wrong_signature_is_refused(hook: Any) -> None:
    with pytest.raises(InvalidSettingError, match="before_job"):
        Hooks(before_job=hook)


@pytest.mark.parametrize("hook", [one_argument, before, no_keyword, plain, lambda job: None])
def test_an_after_hook_with_a_wrong_signature_is_refused(hook: Any) -> None:
    with pytest.raises(InvalidSettingError, match=r"after_job is called as \(job, \*, result"):
        Hooks(after_job=hook)


def test_hooks_with_the_right_signature_are_accepted() -> None:
    for hook in (before, no_keyword, many, HookObject().before_job, HookObject()):
        Hooks(before_job=hook)
    for last in (after, many, HookObject(), functools.partial(many, 1)):
        Hooks(after_job=last)


@pytest.mark.parametrize(
    "strategy", [5, "text", exponential, plain, takes, one_argument, Args, lambda: 1.0]
)
def test_a_retry_strategy_with_a_wrong_signature_is_refused(strategy: Any) -> None:
    with pytest.raises(InvalidSettingError, match="retry_strategy"):
        WorkerSettings(retry_strategy=strategy)
    with pytest.raises(InvalidSettingError, match="retry_strategy"):
        Worker(DSN, retry_strategy=strategy)
    for good in (exponential(), lambda attempt: 1.0, lambda *_: 2.0):
        WorkerSettings(retry_strategy=good)


@pytest.mark.parametrize("registry", [{}, [], "tasks", HandlerRegistry, False])
def test_a_registry_of_another_type_is_refused(registry: Any) -> None:
    calls: list[Callable[[], object]] = [
        lambda: job("one", registry=registry),
        lambda: cron("* * * * *", handler_registry=registry),
        lambda: AsyncRoost(DSN, registry=registry),
        lambda: Roost(DSN, registry=registry),
        lambda: Worker(DSN, registry=registry),
    ]
    for call in calls:
        with pytest.raises(InvalidSettingError, match="registry must be a HandlerRegistry"):
            call()


async def _key(args: dict[str, Any]) -> str:
    return "key"


@pytest.mark.parametrize(
    ("limit_by", "problem"),
    [
        (_key, "not the coroutine function _key"),
        (5, "must be the name of a field of args, or a function of args, not 5"),
        ("a..b", "must name a field of args"),
        ("()", "must name a field of args"),
        ("other", "its handler has no parameter 'other'"),
    ],
)
def test_a_limit_by_that_gives_no_key_is_refused(
    registry: HandlerRegistry, limit_by: Any, problem: str
) -> None:
    with pytest.raises(InvalidSettingError, match=problem):
        job("one", max_concurrency=1, limit_by=limit_by, registry=registry)(takes)
    assert len(registry) == 0


def test_a_limit_by_that_returns_an_awaitable_is_refused_at_the_enqueue() -> None:
    with pytest.raises(InvalidJobError, match="returned an awaitable"):
        limit_key_of("one", lambda args: _key(args), {})


def test_a_limit_by_can_not_change_the_args() -> None:
    args: dict[str, Any] = {"tenant": {"id": 1}}
    assert limit_key_of("one", lambda args: args["tenant"].pop("id"), args) == "1"
    assert args == {"tenant": {"id": 1}}


def test_a_cron_entry_must_have_the_arguments_of_its_handler(registry: HandlerRegistry) -> None:
    decorate = cron("* * * * *", handler_registry=registry, args={"a": 1})
    with pytest.raises(InvalidSettingError, match=rf"no value for \['b'\] of takes {HERE}"):
        decorate(takes)
    with pytest.raises(InvalidSettingError, match=r"has no parameters for \['a'\]"):
        decorate(plain)
    assert len(registry) == 0
    assert registry.cron_entries == ()


def test_a_cron_entrys_arguments_must_fit_the_model(registry: HandlerRegistry) -> None:
    tick = cron("* * * * *", name="tick", handler_registry=registry, args={"a": "x"})
    with pytest.raises(InvalidSettingError, match="does not accept the args of cron entry 'tick'"):
        tick(job("one", args_model=Args, registry=registry)(takes))
    assert registry.cron_entries == ()
    below = cron("* * * * *", handler_registry=registry, args={"a": "x", "b": "y"})(takes_too)
    with pytest.raises(InvalidSettingError, match=r"Args of .* does not accept"):
        job("two", args_model=Args, registry=registry)(below)
    # The model has a default for b.
    defaults = cron("* * * * *", name="good", handler_registry=registry, args={"a": 1})
    assert defaults(takes) is takes


def takes_too(a: int, b: str) -> None: ...


def test_two_lambdas_of_one_name_are_refused(registry: HandlerRegistry) -> None:
    job("one", registry=registry)(lambda: 1)
    with pytest.raises(
        DuplicateTaskError, match=rf"handled by .*<lambda> {HERE}; give .*<lambda> {HERE}"
    ):
        job("one", registry=registry)(lambda: 2)
    cron("* * * * *", handler_registry=registry)(lambda: 3)
    with pytest.raises(DuplicateTaskError):
        cron("* * * * *", handler_registry=registry)(lambda: 4)


def test_two_functions_with_one_qualified_name_are_refused(registry: HandlerRegistry) -> None:
    decorate = job("one", registry=registry)

    @decorate
    def handler() -> int:
        return 1

    first = handler
    with pytest.raises(DuplicateTaskError, match=rf"already handled by .*handler {HERE}"):

        @decorate
        def handler() -> int:
            return 2

    assert registry.handler_of("one").func is first


def test_two_partials_of_one_function_are_refused(registry: HandlerRegistry) -> None:
    job("one", registry=registry)(functools.partial(takes, b="x"))
    job("one", registry=registry)(functools.partial(takes, b="x"))
    with pytest.raises(DuplicateTaskError):
        job("one", registry=registry)(functools.partial(takes, b="y"))


def test_a_closure_that_is_created_again_replaces_the_old_one(
    registry: HandlerRegistry,
) -> None:
    def make(n: int) -> Callable[[], int]:
        @job("one", registry=registry)
        def closure() -> int:
            return n

        return closure

    make(1)
    second = make(2)
    assert registry.handler_of("one").func is second


MODULE = """
from roost import job
from tests.model.test_declarations import shared

{line}
@job("of_module", registry=shared)
def handler(): return {n}

job("lambda", registry=shared)(lambda: {n})
"""
shared = HandlerRegistry()


def test_a_module_that_is_reloaded_or_imported_twice_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setitem(sys.modules, "tests.model.test_declarations", sys.modules[__name__])
    monkeypatch.syspath_prepend(str(tmp_path))
    path = tmp_path / "declared_by_test.py"
    path.write_text(MODULE.format(line="", n=1))
    module = importlib.import_module("declared_by_test")
    try:
        path.write_text(MODULE.format(line="# a line more", n=22))
        importlib.reload(module)
        assert shared.handler_of("of_module").func() == 22
        assert shared.handler_of("lambda").func() == 22
        del sys.modules["declared_by_test"]
        path.write_text(MODULE.format(line="# one\n# more", n=333))
        importlib.invalidate_caches()
        importlib.import_module("declared_by_test")
        assert shared.handler_of("of_module").func() == 333
    finally:
        del sys.modules["declared_by_test"]
