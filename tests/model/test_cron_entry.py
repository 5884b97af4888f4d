"""`@cron` and `CronEntry`: refusals, names, and the defaults of the task."""

from __future__ import annotations

import functools
import importlib.util
import inspect
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any
from zoneinfo import ZoneInfo

import attrs
import pytest
from pydantic import BaseModel

import roost
from roost import CronEntry, DuplicateTaskError, HandlerRegistry, InvalidSettingError, cron, job
from roost._model.cron import make_args
from roost._model.job import JobInsert
from roost._model.registry import with_defaults


class Args(BaseModel):
    day: int = 0


async def report(day: int = 0) -> None: ...


def entries(registry: HandlerRegistry) -> dict[str, tuple[str, str]]:
    return {entry.name: (entry.expression, entry.task) for entry in registry.cron_entries}


# The page's signatures.


def test_the_decorator_has_the_parameters_of_the_page() -> None:
    parameters = inspect.signature(roost.cron).parameters
    page = {
        "name": None,
        "queue": "default",
        "args": None,
        "priority": 0,
        "max_attempts": 20,
        "timezone": None,
        "handler_registry": None,
    }
    assert list(parameters)[: len(page) + 1] == ["expression", *page]
    for name, default in page.items():
        assert parameters[name].default == default
        assert parameters[name].kind is inspect.Parameter.KEYWORD_ONLY


def test_an_entry_has_the_parameters_of_the_page() -> None:
    positional = [
        name
        for name, parameter in inspect.signature(CronEntry).parameters.items()
        if parameter.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    ]
    assert positional == [
        "name",
        "expression",
        "task",
        "args",
        "queue",
        "priority",
        "max_attempts",
        "timezone_name",
    ]
    entry = CronEntry("nightly", "0 0 * * *", "report")
    assert (entry.args, entry.queue, entry.priority) == ({}, "default", 0)
    assert (entry.max_attempts, entry.timezone_name) == (20, None)
    assert (entry.misfire, entry.jitter, entry.overlap) == ("last", 0.0, "allow")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        entry.name = "other"  # type: ignore[misc]  # what is tested


# Refusals.


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"expression": "61 * * * *"}, "'61' is not a valid minute"),
        ({"timezone": "Mars/Olympus"}, "timezone 'Mars/Olympus'"),
    ],
)
def test_a_bad_expression_or_zone_is_refused_before_decorating(
    options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        cron(**{"expression": "* * * * *", **options})


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"name": ""}, "the name of a cron entry"),
        ({"name": "a\0"}, "the name of a cron entry"),
        ({"name": 7}, "the name of a cron entry must be a str"),
        ({"queue": ""}, "queue"),
        ({"priority": "high"}, "priority must be an int"),
        ({"max_attempts": 0}, "max_attempts must be from 1"),
        ({"misfire": "none"}, "misfire must be one of"),
        ({"overlap": "forbid"}, "overlap must be one of"),
        ({"jitter": -1}, "jitter must be seconds from 0"),
        ({"jitter": float("nan")}, "jitter must be seconds from 0"),
        ({"jitter": float("inf")}, "jitter must be seconds from 0"),
        ({"jitter": "5"}, "jitter must be seconds from 0"),
        ({"jitter": True}, "jitter must be seconds from 0"),
        ({"args": lambda *, day: {"day": day}}, "args of cron entry 'report' is called with"),
        ({"args": {"day": object()}}, "args of cron entry 'report' can't be stored"),
        ({"args": {"day": "\0"}}, "args of cron entry 'report' can't be stored"),
    ],
)
def test_a_bad_value_is_refused_with_its_name(
    registry: HandlerRegistry, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidSettingError, match=said):
        cron("* * * * *", handler_registry=registry, **options)(report)
    assert entries(registry) == {}
    assert len(registry) == 0


def test_a_cron_entry_created_directly_is_checked_too() -> None:
    with pytest.raises(InvalidSettingError, match="'61' is not a valid minute"):
        CronEntry("nightly", "61 * * * *", "report")
    with pytest.raises(InvalidSettingError, match="above 16,777,216"):
        CronEntry("beat", "* * * * *", "beat", {"n": "x" * (16 << 20)})
    with pytest.raises(InvalidSettingError, match="args must be a dict, not list"):
        CronEntry("nightly", "* * * * *", "report", [])  # type: ignore[arg-type]  # what is tested
    with pytest.raises(InvalidSettingError, match="task"):
        CronEntry("nightly", "* * * * *", "")


# Names, and the task behind an entry.


def test_the_function_is_returned_untouched_and_is_a_task(registry: HandlerRegistry) -> None:
    decorated = cron("@daily", args={"day": 1}, handler_registry=registry)(report)
    assert decorated is report
    assert entries(registry) == {"report": ("@daily", "report")}
    assert registry.handler_of("report").func is report
    [entry] = registry.cron_entries
    assert entry.args == {"day": 1}


def test_an_entry_can_be_named(registry: HandlerRegistry) -> None:
    cron("@daily", name="nightly", handler_registry=registry)(report)
    assert entries(registry) == {"nightly": ("@daily", "report")}


def test_a_function_without_a_name_needs_one(registry: HandlerRegistry) -> None:
    func = functools.partial(report, day=1)
    with pytest.raises(InvalidSettingError, match="has no __name__; pass name="):
        cron("@daily", handler_registry=registry)(func)
    cron("@daily", name="nightly", handler_registry=registry)(func)
    assert entries(registry) == {"nightly": ("@daily", "nightly")}


def test_one_function_can_have_several_entries(registry: HandlerRegistry) -> None:
    cron("@daily", handler_registry=registry)(report)
    cron("@weekly", name="weekly", handler_registry=registry)(report)
    assert entries(registry) == {"report": ("@daily", "report"), "weekly": ("@weekly", "report")}


def test_two_entries_of_one_function_need_two_names(registry: HandlerRegistry) -> None:
    cron("@daily", handler_registry=registry)(report)
    with pytest.raises(DuplicateTaskError, match="report has the cron entry 'report' already"):
        cron("@weekly", handler_registry=registry)(report)
    assert entries(registry) == {"report": ("@daily", "report")}


def test_two_functions_can_not_share_an_entry_name(registry: HandlerRegistry) -> None:
    async def other() -> None: ...

    cron("@daily", name="nightly", handler_registry=registry)(report)
    with pytest.raises(DuplicateTaskError, match="report has the cron entry 'nightly' already"):
        cron("@daily", name="nightly", handler_registry=registry)(other)
    assert "other" not in registry


def test_a_function_named_like_another_task_is_refused(registry: HandlerRegistry) -> None:
    @job("report", registry=registry)
    async def other() -> None: ...

    with pytest.raises(DuplicateTaskError, match="'report' is already handled by"):
        cron("@daily", handler_registry=registry)(report)
    assert entries(registry) == {}


def test_the_same_declaration_twice_is_one(registry: HandlerRegistry) -> None:
    for _ in range(2):
        cron("@daily", handler_registry=registry)(report)
    assert entries(registry) == {"report": ("@daily", "report")}


# @job on the same function.

OPTIONS: dict[str, Any] = {
    "args_model": Args,
    "queue": "reports",
    "priority": 5,
    "max_attempts": 3,
    "tags": ["night"],
    "timeout_seconds": 60,
    "rate_per_minute": 10,
    "max_concurrency": 2,
}


@pytest.fixture(params=["@cron on top", "@job on top"])
def both(request: pytest.FixtureRequest, registry: HandlerRegistry) -> HandlerRegistry:
    declare = [
        job("reports.daily", registry=registry, **OPTIONS),
        cron("@daily", handler_registry=registry),
    ]
    for decorate in declare if request.param == "@cron on top" else reversed(declare):
        decorate(report)
    return registry


def test_job_and_cron_in_either_order_keep_everything(both: HandlerRegistry) -> None:
    assert list(both) == ["reports.daily"]
    handler = both.handler_of("reports.daily")
    assert handler.func is report
    assert handler.args_model is Args
    for name in ("queue", "priority", "max_attempts", "timeout_seconds"):
        assert getattr(handler.defaults, name) == OPTIONS[name]
    assert handler.defaults.tags == ("night",)
    assert (handler.defaults.rate_per_minute, handler.defaults.max_concurrency) == (10, 2)
    assert entries(both) == {"reports.daily": ("@daily", "reports.daily")}
    assert both.name_of(report) == "reports.daily"


def test_an_entry_uses_its_tasks_defaults(both: HandlerRegistry) -> None:
    [entry] = both.cron_entries
    made = with_defaults(inserted(entry), both)
    assert (made.queue, made.priority, made.max_attempts) == ("reports", 5, 3)
    assert (made.tags, made.timeout_seconds) == (["night"], 60)


@pytest.mark.parametrize("job_first", [True, False])
def test_what_an_entry_passes_wins_over_the_defaults(
    registry: HandlerRegistry, job_first: bool
) -> None:
    declare = [
        job("reports.daily", registry=registry, **OPTIONS),
        # The signature's defaults, on purpose.
        cron("@daily", queue="default", priority=0, max_attempts=20, handler_registry=registry),
    ]
    for decorate in declare if job_first else reversed(declare):
        decorate(report)
    [entry] = registry.cron_entries
    made = with_defaults(inserted(entry), registry)
    assert (made.queue, made.priority, made.max_attempts) == ("default", 0, 20)


def inserted(entry: CronEntry) -> JobInsert:
    return JobInsert(
        entry.task,
        {},
        queue=entry.queue,
        priority=entry.priority,
        max_attempts=entry.max_attempts,
    )


def test_an_explicit_entry_name_is_kept_when_the_task_is_renamed(registry: HandlerRegistry) -> None:
    cron("@weekly", name="report", handler_registry=registry)(report)
    cron("@daily", name="nightly", handler_registry=registry)(report)
    job("reports.daily", registry=registry)(report)
    assert entries(registry) == {
        "report": ("@weekly", "reports.daily"),
        "nightly": ("@daily", "reports.daily"),
    }


def test_a_task_named_like_its_function_keeps_its_entry(
    registry: HandlerRegistry,
) -> None:
    cron("@daily", handler_registry=registry)(report)
    job("report", registry=registry)(report)
    job("another", registry=registry)(report)
    assert set(registry) == {"report", "another"}
    assert entries(registry) == {"report": ("@daily", "report")}


# A module that is imported twice or reloaded.

MODULE = """
import roost
from shared import registry

@roost.cron("{expression}", handler_registry=registry)
@roost.job("first", registry=registry)
async def first() -> None: ...

@roost.job("second", registry=registry)
@roost.cron("{expression}", handler_registry=registry)
async def second_function() -> None: ...

@roost.cron("{expression}", handler_registry=registry)
async def third() -> None: ...
"""


def test_a_reloaded_module_replaces_its_entries(
    registry: HandlerRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = ModuleType("shared")
    shared.registry = registry  # type: ignore[attr-defined]  # added by the test
    monkeypatch.setitem(sys.modules, "shared", shared)
    file = tmp_path / "tasks.py"
    for expression in ("@daily", "@daily", "@hourly"):
        file.write_text(MODULE.format(expression=expression))
        spec = importlib.util.spec_from_file_location("tasks", file)
        assert spec is not None
        assert spec.loader is not None
        spec.loader.exec_module(importlib.util.module_from_spec(spec))
        assert set(registry) == {"first", "second", "third"}
        assert entries(registry) == {
            name: (expression, name) for name in ("first", "second", "third")
        }


# The next tick.


def test_the_next_tick_is_after_the_moment_and_follows_clock_changes() -> None:
    nightly = CronEntry("nightly", "30 2 * * *", "report", timezone_name="Europe/Berlin")
    first = nightly.next_after(datetime(2026, 10, 24, 12, tzinfo=UTC))
    assert first == datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "the first of two equal times"
    assert nightly.next_after(first) == datetime(2026, 10, 26, 1, 30, tzinfo=UTC)
    spring = nightly.next_after(datetime(2026, 3, 28, 12, tzinfo=UTC))
    assert spring == datetime(2026, 3, 29, 1, tzinfo=UTC), "right after the gap"
    local = datetime(2026, 7, 1, 2, 29, 59, 999999, tzinfo=ZoneInfo("Europe/Berlin"))
    assert nightly.next_after(local) == datetime(2026, 7, 1, 0, 30, tzinfo=UTC)
    assert spring.tzinfo is UTC


@pytest.mark.parametrize("moment", [datetime(2026, 1, 1), "2026-01-01", None])  # noqa: DTZ001
def test_a_moment_without_a_time_zone_is_refused(moment: Any) -> None:
    with pytest.raises(InvalidSettingError, match="a datetime with a time zone"):
        CronEntry("nightly", "@daily", "report").next_after(moment)


def test_args_can_be_a_plain_function_of_the_tick(registry: HandlerRegistry) -> None:
    def made(tick: datetime) -> dict[str, Any]:
        return {"day": tick.day}

    async def later(tick: datetime) -> dict[str, Any]:
        return {}

    cron("@daily", args=made, handler_registry=registry)(report)
    [entry] = registry.cron_entries
    assert entry.args is made
    assert make_args(entry, made, datetime(2026, 6, 3, tzinfo=UTC)) == '{"day":3}'
    with pytest.raises(InvalidSettingError, match="must be a plain function, not async"):
        CronEntry("it", "@daily", "report", later)  # type: ignore[arg-type]  # what is tested


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda tick: 1 / 0, "raised ZeroDivisionError: division by zero"),
        (lambda tick: [tick], "args must be a dict, not list"),
        (lambda tick: {"a": object()}, "can't be stored"),
    ],
)
def test_args_that_a_function_fails_to_make_are_refused(made: Any, said: str) -> None:
    entry = CronEntry("it", "@daily", "report", made)
    with pytest.raises(InvalidSettingError, match=said):
        make_args(entry, made, datetime(2026, 6, 3, tzinfo=UTC))


def test_run_on_start_is_a_bool(registry: HandlerRegistry) -> None:
    with pytest.raises(InvalidSettingError, match="run_on_start must be a bool"):
        cron("@daily", run_on_start="yes", handler_registry=registry)(report)  # type: ignore[arg-type]
