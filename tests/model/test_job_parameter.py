"""The parameter that is annotated with `Job` is found in every notation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Annotated, Any, Optional, Union

import pytest

import roost
from roost import Job, State
from roost._model.job_parameter import job_parameter, state_parameter

if TYPE_CHECKING:
    from collections import UserDict as Unknown


def plain(n: int, job: Job) -> None: ...
def or_none(n: int, job: Job | None = None) -> None: ...
def optional(job: Optional[Job] = None) -> None: ...  # noqa: UP045
def union(job: Union[Job, None] = None) -> None: ...  # noqa: UP007
def annotated(job: Annotated[Job, "note"]) -> None: ...
def annotated_or_none(job: Annotated[Job | None, "note"] = None) -> None: ...
def qualified(job: roost.Job | None = None) -> None: ...
def quoted(job: "Job | None" = None) -> None: ...  # noqa: UP037
def quoted_inside(job: Optional["Job"] = None) -> None: ...  # noqa: UP037, UP045
def keyword_only(*, job: Job) -> None: ...
def beside_what_only_type_checkers_know(n: Unknown[str, str], job: Job | None = None) -> None: ...
async def asynchronous(job: Job | None = None) -> None: ...


@functools.wraps(or_none)
def wrapped(*args: Any, **kwargs: Any) -> None: ...


class Callables:
    def __call__(self, job: Job | None = None) -> None: ...
    def method(self, job: Job | None = None) -> None: ...
    @classmethod
    def of_class(cls, job: Job | None = None) -> None: ...
    @staticmethod
    def static(job: Job | None = None) -> None: ...


def local() -> Callable[..., object]:
    from roost import Job as Mine

    def handler(job: Mine | None = None) -> type[Mine]:
        return Mine

    return handler


def evaluated() -> Callable[..., None]:
    def handler(job: Any = None) -> None: ...

    handler.__annotations__ = {"job": Optional[Job]}  # noqa: UP045
    return handler


def forward() -> Callable[..., None]:
    def handler(job: Any = None) -> None: ...

    handler.__annotations__ = {"job": Optional["Job"]}
    return handler


@pytest.mark.parametrize(
    "func",
    [
        *(plain, or_none, optional, union, annotated, annotated_or_none, qualified),
        *(quoted, quoted_inside, keyword_only, beside_what_only_type_checkers_know),
        *(asynchronous, wrapped, local(), evaluated(), forward()),
        *(Callables(), Callables().method, Callables.of_class, Callables.static),
        *(functools.partial(plain, 1), functools.partial(functools.partial(plain), n=1)),
        *(functools.partial(Callables()), functools.partial(Callables().method)),
    ],
)
def test_the_parameter_is_found(func: Callable[..., Any]) -> None:
    assert job_parameter(func) == "job"


@pytest.mark.parametrize(
    "text",
    [
        *("Job", "roost.Job", "Job | None", "None | roost.Job", "Optional[Job]", "Unknown | Job"),
        *("typing.Union[Job, None]", "Annotated[Job | None, Unknown()]", "Optional['Job']"),
        "'Job'",
    ],
)
def test_an_annotation_that_only_type_checkers_evaluate_is_read_as_text(text: str) -> None:
    function = eval("lambda job=None: None", {})
    function.__annotations__ = {"job": text}
    assert job_parameter(function) == "job"


class OtherJob: ...


def other(job: OtherJob | None = None) -> None: ...
def many(job: list[Job]) -> None: ...
def about(kind: Annotated[int, Job]) -> None: ...
def returned() -> Job | None: ...
def of_class(kind: type[Job]) -> None: ...


@pytest.mark.parametrize(
    "func",
    [other, many, about, returned, of_class, len, functools.partial(or_none, job=None), lambda: 0],
)
def test_other_parameters_are_not_found(func: Callable[..., Any]) -> None:
    assert job_parameter(func) is None


def test_a_users_class_named_job_is_not_found() -> None:
    function = eval("lambda job: None", {"Job": OtherJob})
    function.__annotations__ = {"job": "Job | None"}
    assert job_parameter(function) is None


class Resources(State): ...


async def with_state(state: State) -> None: ...
async def with_text(state: roost.State | None = None) -> None: ...
async def with_own_class(job: Job, state: Resources) -> None: ...


@pytest.mark.parametrize("func", [with_state, with_text, with_own_class])
def test_the_state_is_found_as_the_job_is(func: Callable[..., Any]) -> None:
    assert state_parameter(func) == "state"
    assert job_parameter(func) == ("job" if func is with_own_class else None)
