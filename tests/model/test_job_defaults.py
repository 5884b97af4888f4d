"""A passed value wins over a task's default, even if it equals the signature's default."""

from __future__ import annotations

import copy
import inspect
import pickle
from collections.abc import Callable

import attrs
import pytest

from roost import AsyncRoost, HandlerRegistry, JobInsert, job
from roost._model.job import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE, is_default
from roost._model.registry import with_defaults


@pytest.fixture
def declared() -> HandlerRegistry:
    registry = HandlerRegistry()

    @job(
        "declared",
        queue="slow",
        priority=7,
        max_attempts=3,
        tags=["a"],
        timeout_seconds=9,
        registry=registry,
    )
    async def declared() -> None: ...

    return registry


def merged(registry: HandlerRegistry, job: JobInsert) -> tuple[object, ...]:
    full = with_defaults(job, registry)
    return full.queue, full.priority, full.max_attempts, full.tags, full.timeout_seconds


def test_the_defaults_fill_what_is_not_passed(declared: HandlerRegistry) -> None:
    assert merged(declared, JobInsert("declared")) == ("slow", 7, 3, ["a"], 9)


def test_an_explicit_value_wins_if_it_equals_the_default(declared: HandlerRegistry) -> None:
    explicit = JobInsert("declared", queue="default", priority=0, max_attempts=20)
    assert merged(declared, explicit)[:3] == ("default", 0, 20)


def test_each_argument_is_merged_separately(declared: HandlerRegistry) -> None:
    assert merged(declared, JobInsert("declared", priority=0)) == ("slow", 0, 3, ["a"], 9)
    assert merged(declared, JobInsert("declared", tags=[])) == ("slow", 7, 3, [], 9)
    assert merged(declared, JobInsert("declared", timeout_seconds=1)) == ("slow", 7, 3, ["a"], 1)


COPIES: dict[str, Callable[[JobInsert], JobInsert]] = {
    "evolve": lambda job: attrs.evolve(job, unique_key="key"),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": lambda job: pickle.loads(pickle.dumps(job)),
}


@pytest.mark.parametrize("again", COPIES.values(), ids=COPIES)
def test_a_copy_still_distinguishes_passed_values_from_defaults(
    declared: HandlerRegistry, again: Callable[[JobInsert], JobInsert]
) -> None:
    assert merged(declared, again(JobInsert("declared"))) == ("slow", 7, 3, ["a"], 9)
    explicit = JobInsert("declared", queue="default", priority=0, max_attempts=20)
    assert merged(declared, again(explicit))[:3] == ("default", 0, 20)


def test_an_unknown_task_and_one_without_defaults_get_the_signatures_defaults(
    declared: HandlerRegistry,
) -> None:
    declared.register("plain", len)
    for task in ("plain", "unknown"):
        assert merged(declared, JobInsert(task)) == ("default", 0, 20, None, None)


def test_the_defaults_look_like_ordinary_values() -> None:
    assert (DEFAULT_QUEUE, DEFAULT_PRIORITY, DEFAULT_MAX_ATTEMPTS) == ("default", 0, 20)
    assert is_default(DEFAULT_QUEUE)
    assert not is_default("default")
    assert not is_default(0)
    shown = inspect.signature(AsyncRoost.enqueue).parameters
    assert repr(shown["queue"].default) == "'default'"
    assert repr(shown["priority"].default) == "0"
    assert repr(shown["max_attempts"].default) == "20"
