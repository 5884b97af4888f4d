"""A worker's parameters: documented names and defaults, and refusals of other values."""

from __future__ import annotations

import inspect
import math
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, get_type_hints

import attrs
import pytest

from roost import (
    AsyncRoost,
    HandlerRegistry,
    Hooks,
    InvalidSettingError,
    JobState,
    Worker,
    WorkerSettings,
    fixed,
)

DOCUMENTED: dict[str, object] = {
    "queues": ("default",),
    "concurrency": 4,
    "prefetch": None,
    "poll_interval": 1.0,
    "retry_strategy": None,
    "retry_invalid_args": False,
    "timeout_seconds": None,
    "run_cron": True,
    "heartbeat_interval": 15.0,
    "orphan_reaper_interval": 30.0,
    "orphan_stale_after": 300.0,
    "shutdown_timeout": 30.0,
    "listen_reconnect_delay": 1.0,
    "error_cap": 20,
    "max_result_bytes": 16 << 20,
    "archive_after_seconds": None,
    "delete_after_seconds": None,
    "archive_interval": 60.0,
    "result_ttl_seconds": None,
    "startup_max_retries": 30,
    "startup_retry_delay": 1.0,
    "hooks": None,
    "lifespan": None,
    "on_startup": None,
    "on_shutdown": None,
}
"""The keywords of the API page, with their defaults."""

DSN = "postgresql:///nobody-connects"


def defaults(function: Callable[..., Any]) -> dict[str, object]:
    return {
        parameter.name: parameter.default
        for parameter in inspect.signature(function).parameters.values()
        if parameter.kind is parameter.KEYWORD_ONLY
    }


def test_the_signatures_show_the_documented_keywords_and_defaults() -> None:
    assert defaults(AsyncRoost.worker) == DOCUMENTED
    assert defaults(Worker) == {"registry": None, "driver": None, **DOCUMENTED}
    assert next(iter(inspect.signature(Worker).parameters)) == "dsn"


def test_the_settings_have_the_names_defaults_and_types_of_the_workers_parameters() -> None:
    fields = {field.name: field.default for field in attrs.fields(WorkerSettings)}
    assert fields == DOCUMENTED
    types = get_type_hints(Worker.__init__)
    for name in ("dsn", "registry", "driver"):
        del types[name]
    assert get_type_hints(WorkerSettings.__init__) == types


def test_the_worker_documents_each_parameter() -> None:
    documented = re.findall(r":param (\w+):", Worker.__doc__ or "")
    assert documented == list(inspect.signature(Worker).parameters)


SECONDS_BY_STATE = [
    *(None, 0, 1, 0.5, 86_400, {}),
    {"completed": 0, JobState.DISCARDED: 7 * 86_400, "cancelled": 0.5},
]


async def _lifespan() -> AsyncIterator[None]:
    yield


ACCEPTED: dict[str, list[Any]] = {
    "queues": [("a",), ["a", "b"], {"a"}, (name for name in "ab"), {"a": 1, "b": 8}],
    "concurrency": [1, 1_000],
    "prefetch": [None, 0, 50],
    "poll_interval": [0.01, 60],
    "retry_strategy": [None, fixed(1), lambda attempt: 1.0],
    "retry_invalid_args": [True, False],
    "timeout_seconds": [None, 1, 86_400],
    "run_cron": [True, False],
    "heartbeat_interval": [0.01, 150],
    "orphan_reaper_interval": [0.01, 3_600],
    "orphan_stale_after": [30.0, 1e6],
    "shutdown_timeout": [0, 0.5, 3_600],
    "listen_reconnect_delay": [0.01, 60],
    "error_cap": [1, 1_000],
    "max_result_bytes": [1_000, 200 << 20],
    "archive_after_seconds": SECONDS_BY_STATE,
    "delete_after_seconds": SECONDS_BY_STATE,
    "archive_interval": [0.01, 3_600],
    "result_ttl_seconds": [None, 1, 86_400],
    "startup_max_retries": [0, 1_000],
    "startup_retry_delay": [0, 0.1, 60],
    "hooks": [None, Hooks()],
    "lifespan": [None, asynccontextmanager(_lifespan)],
    "on_startup": [None, dict, lambda worker: None],
    "on_shutdown": [None, dict, lambda worker: None],
}


@pytest.mark.parametrize("name", DOCUMENTED)
def test_each_documented_parameter_is_accepted(name: str) -> None:
    for value in ACCEPTED[name]:
        Worker(DSN, registry=HandlerRegistry(), **{name: value})


POSITIVE = [0, -1, math.nan, math.inf, "1", None, True]
NOT_NEGATIVE = [-1, -0.1, math.nan, math.inf, "1", None, True]
NO_SECONDS_BY_STATE = [
    *(-1, math.nan, math.inf, "1", True, ["completed"], {None: 1}),
    *({"available": 1}, {"executing": 1}, {"complete": 1}, {JobState.RETRYABLE: 1}, {1: 1}),
    *({"completed": -1}, {"completed": None}, {"completed": "1"}, {"completed": True}),
]
REFUSED: dict[str, list[Any]] = {
    "queues": [
        *("default", (), [""], ["x" * 201], [None], ["a\0"], None, 5),
        *({}, {"": 1}, {"a": 0}, {"a": -1}, {"a": 1.5}, {"a": "1"}, {"a": None}, {"a": True}),
    ],
    "concurrency": [0, -1, 1.5, "4", None, True],
    "prefetch": [-1, 1.5, "4", True],
    "poll_interval": POSITIVE,
    "retry_strategy": [5, "exponential"],
    "retry_invalid_args": [1, None, "yes"],
    "timeout_seconds": [0, -1, 1.5, "4", True],
    "run_cron": [1, None, "yes"],
    "heartbeat_interval": POSITIVE,
    "orphan_reaper_interval": POSITIVE,
    "orphan_stale_after": POSITIVE,
    "shutdown_timeout": NOT_NEGATIVE,
    "listen_reconnect_delay": POSITIVE,
    "error_cap": [0, -1, 1.5, "4", None, True],
    "max_result_bytes": [0, 999, (200 << 20) + 1, 1e6, "4", None, True],
    "archive_after_seconds": NO_SECONDS_BY_STATE,
    "delete_after_seconds": NO_SECONDS_BY_STATE,
    "archive_interval": POSITIVE,
    "result_ttl_seconds": [-1, math.nan, math.inf, "1", True],
    "startup_max_retries": [-1, 1.5, "4", None, True],
    "startup_retry_delay": NOT_NEGATIVE,
    "hooks": [5, "hooks"],
    "lifespan": [5, _lifespan, lambda one, two: None],
    "on_startup": [5, "on_startup", lambda one, two: None],
    "on_shutdown": [5, "on_shutdown", lambda one, two: None],
}


@pytest.mark.parametrize(
    ("name", "value"),
    [(name, value) for name, values in REFUSED.items() for value in values],
)
def test_each_value_out_of_range_is_refused_by_name(name: str, value: Any) -> None:
    what = "queue" if name == "queues" else name
    with pytest.raises(InvalidSettingError, match=what) as caught:
        Worker(DSN, registry=HandlerRegistry(), **{name: value})
    assert caught.value.code == "roost.invalid-setting"


def test_all_documented_parameters_have_a_refused_and_an_accepted_value() -> None:
    assert REFUSED.keys() == ACCEPTED.keys() == DOCUMENTED.keys()


def test_a_heartbeat_that_can_not_be_missed_once_is_refused() -> None:
    with pytest.raises(InvalidSettingError, match="half of orphan_stale_after"):
        WorkerSettings(heartbeat_interval=10, orphan_stale_after=19.9)
    WorkerSettings(heartbeat_interval=10, orphan_stale_after=20)


def test_an_unknown_parameter_is_a_type_error() -> None:
    with pytest.raises(TypeError, match="speed"):
        Worker(DSN, speed=11)  # type: ignore[call-arg]  # the mistake under test


def test_queues_are_named_once() -> None:
    assert WorkerSettings(queues=["b", "a", "b"]).queues == ("b", "a")


def test_without_a_strategy_waits_are_exponential() -> None:
    assert 1.8 <= WorkerSettings().retry(1) <= 2
    assert WorkerSettings(retry_strategy=fixed(7)).retry(1) == 7


def test_seconds_for_all_states_are_seconds_of_each() -> None:
    settings = WorkerSettings(archive_after_seconds=9, delete_after_seconds={"completed": 0})
    ended = (JobState.COMPLETED, JobState.DISCARDED, JobState.CANCELLED)
    assert settings.archive_after_seconds == dict.fromkeys(ended, 9)
    assert settings.delete_after_seconds == {JobState.COMPLETED: 0}
    assert WorkerSettings().archive_after_seconds == WorkerSettings().delete_after_seconds == {}


def test_without_a_concurrency_it_is_the_sum_of_the_queues_slots() -> None:
    slots = {"web": 8, "bulk": 2}
    settings = WorkerSettings(queues=slots)
    assert (settings.concurrency, settings.max_slots) == (10, None)
    assert settings.queue_slots == slots
    slots["web"] = 1  # the settings don't follow
    assert settings.queue_slots == {"web": 8, "bulk": 2}
    for concurrency in (4, 5, 20):  # 4 is also the default of other workers
        settings = WorkerSettings(queues=slots, concurrency=concurrency)
        assert (settings.concurrency, settings.max_slots) == (concurrency, concurrency)
    shared = WorkerSettings(queues=["web", "bulk"])
    assert (shared.concurrency, shared.queue_slots) == (4, None)
