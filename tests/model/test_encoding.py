"""Jobs are encoded for one statement; a value that can't be stored is refused by its name."""

from __future__ import annotations

import json
import math
from datetime import UTC, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from pydantic import BaseModel, Field, RootModel

from roost import HandlerRegistry, InvalidJobError, JobInsert, job
from roost._model.encoding import encode_batch, encode_jobs
from roost._model.registry import with_defaults

BEYOND_INT = 2**31


class Unzoned(tzinfo):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        return None

    def tzname(self, moment: datetime | None) -> None:
        return None

    def dst(self, moment: datetime | None) -> timedelta | None:
        return None


class RaisingZone(Unzoned):
    def utcoffset(self, moment: datetime | None) -> timedelta | None:
        raise LookupError("no such place")


class Subclass(datetime):
    pass


class NotATime(datetime):
    """Like ``pandas.NaT``: a datetime subclass whose value is not a time."""

    year = month = day = hour = minute = second = microsecond = math.nan  # type: ignore[assignment]

    def utcoffset(self) -> timedelta | None:
        return self  # type: ignore[return-value]

    def isoformat(self, sep: str = "T", timespec: str = "auto") -> str:
        return "NaT"


class FloatModel(BaseModel):
    value: float


class Text(RootModel[str]):
    pass


BAD: list[tuple[str, list[Any]]] = [
    ("task", ["", "x" * 201, "a\0b", "\ud800", None, 3, b"work", [], {}]),
    ("queue", ["", "x" * 201, "a\0b", "\ud800", None, 3]),
    ("priority", [BEYOND_INT, -BEYOND_INT, "1", 1.0, True, None, 10**30]),
    ("max_attempts", [0, -1, BEYOND_INT, "1", 1.5, True, None]),
    (
        "scheduled_at",
        [
            datetime(2026, 1, 1),  # noqa: DTZ001
            "2026-01-01",
            5,
            datetime(2026, 1, 1, tzinfo=Unzoned()),
            datetime(2026, 1, 1, tzinfo=RaisingZone()),
            NotATime(2026, 1, 1, tzinfo=UTC),
            datetime.max.replace(tzinfo=UTC),
            datetime.min.replace(tzinfo=UTC),
            datetime.max.replace(tzinfo=timezone(timedelta(hours=-23))),
        ],
    ),
    ("unique_key", ["", "x" * 501, "a\0b", "\ud800", 3]),
    ("tag", ["one", [""], [None], ["a\0"], [3], 5, {"a": 1}, ["x" * 201]]),
    ("timeout_seconds", [0, -1, 0.5, "1", True, BEYOND_INT]),
    ("depends_on", [5, "1", [0], [-1], ["1"], [2**63], [True], [1.0]]),
    (
        "args",
        [
            [],
            "text",
            5,
            {1: 2},
            {"a": {2: 3}},
            {"a": math.nan},
            {"a": [math.inf]},
            {"a": -math.inf},
            {"a": "x\0"},
            {"a\0": 1},
            {"a": "\ud800"},
            {"a": object()},
            {"a": b"\xff"},
            {"a": lambda: None},
            {"a": 10**5_000},
            {"a": datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=30)))},
            {"a": [time(12, tzinfo=timezone(timedelta(hours=1, seconds=1)))]},
            FloatModel(value=math.nan),
            Text("text"),
        ],
    ),
    ("metadata", [[], "text", {1: 2}, {"a": math.nan}, {"a": "\0"}, {"a": object()}]),
]


@pytest.mark.parametrize(
    ("argument", "value"),
    [(argument, value) for argument, values in BAD for value in values],
    ids=lambda value: value if isinstance(value, str) and value.isidentifier() else "",
)
def test_bad_values_are_refused_by_name(argument: str, value: Any) -> None:
    name = "tags" if argument == "tag" else argument
    bad = JobInsert(**{"task": "work", name: value})
    with pytest.raises(InvalidJobError, match=argument) as alone:
        encode_jobs([bad])
    assert alone.value.code == "roost.invalid-job"
    assert "batch" not in str(alone.value)
    with pytest.raises(InvalidJobError, match=rf"job 2 of the batch: .*{argument}"):
        encode_jobs([JobInsert("work"), JobInsert("work"), bad, JobInsert("work")])


def test_a_cyclic_value_is_refused() -> None:
    endless: dict[str, Any] = {}
    endless["a"] = endless
    with pytest.raises(InvalidJobError, match="args"):
        encode_jobs([JobInsert("work", args=endless)])


def record(**fields: Any) -> dict[str, Any]:
    [stored] = json.loads(encode_jobs([JobInsert("work", **fields)]))
    assert isinstance(stored, dict)
    return stored


def test_an_option_that_is_not_passed_is_not_sent() -> None:
    assert record() == {
        "task": "work",
        "queue": "default",
        "args": {},
        "priority": 0,
        "max_attempts": 20,
    }


def test_every_option_that_is_passed_is_sent() -> None:
    fields: dict[str, Any] = {
        "queue": "q",
        "priority": -(2**31) + 1,
        "max_attempts": 2**31 - 1,
        "unique_key": "k" * 500,
        "tags": ["a", "b"],
        "timeout_seconds": 1,
        "depends_on": [3, 2],
        "metadata": {"trace": "t"},
        "args": {"a": 1},
    }
    assert record(**fields) == {"task": "work", **fields}


@pytest.mark.parametrize(
    "moment",
    [
        datetime(2026, 3, 1, 12, 30, tzinfo=UTC),
        datetime(2026, 3, 1, 18, 0, tzinfo=timezone(timedelta(hours=5, minutes=30))),
        datetime(2026, 3, 1, 13, 30, 30, tzinfo=timezone(timedelta(hours=1, seconds=30))),
        datetime(2026, 3, 1, 12, 30, 0, 7, tzinfo=timezone(timedelta(microseconds=7))),
        Subclass(2026, 3, 1, 12, 30, tzinfo=UTC),
    ],
)
def test_a_time_is_sent_as_the_same_instant(moment: datetime) -> None:
    sent = record(scheduled_at=moment)["scheduled_at"]
    assert datetime.fromisoformat(sent) == datetime(2026, 3, 1, 12, 30, tzinfo=UTC)


class Inner(BaseModel):
    at: datetime


class Outer(BaseModel):
    number: UUID
    price: Decimal
    inner: list[Inner]
    renamed: int = Field(alias="Other")


def test_a_model_and_a_dict_of_its_values_are_sent_the_same() -> None:
    noon = datetime(2026, 3, 1, 12, tzinfo=UTC)
    number = UUID(int=7)
    model = Outer(number=number, price=Decimal("1.10"), inner=[Inner(at=noon)], Other=3)
    values = {"number": number, "price": Decimal("1.10"), "inner": [{"at": noon}], "renamed": 3}
    assert record(args=model)["args"] == record(args=values)["args"]
    assert record(args=model)["args"] == {
        "number": str(number),
        "price": "1.10",
        "inner": [{"at": "2026-03-01T12:00:00Z"}],
        "renamed": 3,
    }


@pytest.mark.parametrize(
    "other",
    [
        JobInsert("other", {"n": 2}),
        JobInsert("work", {"n": 2}, queue="other"),
        JobInsert("work", {"n": 2}, priority=1),
        JobInsert("work", {"n": 2}, metadata={"n": True}),
        JobInsert("work", {"n": 2}, metadata={"m": 1}),
        JobInsert("work", {"n": 2}, metadata={"n": 1, "m": None}),
        JobInsert("work", {"n": 2}, metadata={"n": [1]}),
        JobInsert("work", {"n": 2}, tags=["a"]),
        JobInsert("work", {"n": 2}, depends_on=[1]),
        JobInsert("work", {"n": 2}, timeout_seconds=7),
    ],
)
def test_jobs_that_differ_in_more_than_args_and_key_are_sent_as_records(other: JobInsert) -> None:
    first = JobInsert("work", {"n": 1}, metadata={"n": 1})
    batch = encode_batch([first, other])
    assert not batch.homogeneous
    assert batch.text == encode_jobs([first, other])


def test_homogeneous_jobs_are_sent_with_their_common_columns_once() -> None:
    metadata, tags = {"trace": 1}, ["a"]
    jobs = [
        JobInsert("work", {"n": n}, unique_key=key, metadata=metadata, tags=tags, priority=1_000)
        for n, key in enumerate(["x", None])
    ]
    batch = encode_batch(jobs)
    assert batch.homogeneous
    content = json.loads(batch.text)
    assert content["args"] == [{"n": 0}, {"n": 1}]
    assert content["keys"] == ["x", None]
    assert content["common"] == {
        "task": "work",
        "queue": "default",
        "priority": 1_000,
        "max_attempts": 20,
        "metadata": metadata,
        "tags": tags,
    }


def test_options_are_common_if_they_are_equal_objects() -> None:
    def one(n: int) -> JobInsert:
        return JobInsert(
            "work",
            {"n": n},
            tags=["a", "b"],
            depends_on=[] if n else None,
            timeout_seconds=int("7000"),
            metadata={"tenant": "x" * 3, "n": int("7000"), "none": None},
        )

    assert encode_batch([one(n) for n in range(3)]).homogeneous


def test_a_tasks_default_tags_are_common(registry: HandlerRegistry) -> None:
    job("work", tags=["a", "b"], timeout_seconds=7_000, registry=registry)(lambda n: None)
    jobs = [with_defaults(JobInsert("work", {"n": n}), registry) for n in range(3)]
    batch = encode_batch(jobs)
    assert batch.homogeneous
    assert json.loads(batch.text)["common"]["tags"] == ["a", "b"]


@pytest.mark.parametrize(
    "bad",
    [
        JobInsert("work", tags=[7]),  # type: ignore[list-item]
        JobInsert("work", metadata=7),  # type: ignore[arg-type]
        JobInsert("work", depends_on=0),  # type: ignore[arg-type]
        JobInsert("work", {"n": float("nan")}),
        JobInsert("work", "text"),  # type: ignore[arg-type]
        JobInsert("work", unique_key=""),
        JobInsert("work", unique_key=7),  # type: ignore[arg-type]
        JobInsert("work", priority=True),
        JobInsert("work", priority=0.0),  # type: ignore[arg-type]
        JobInsert("work", max_attempts=20.0),  # type: ignore[arg-type]
        JobInsert("work", tags="text"),  # type: ignore[arg-type]
        JobInsert("work", depends_on=""),  # type: ignore[arg-type]
    ],
)
def test_a_bad_job_among_homogeneous_ones_is_refused_by_its_position(bad: JobInsert) -> None:
    with pytest.raises(InvalidJobError, match=r"^job 2 of the batch: "):
        encode_batch([JobInsert("work"), JobInsert("work"), bad, JobInsert("work")])
    with pytest.raises(InvalidJobError, match=r"^job 0 of the batch: "):
        encode_batch([bad, JobInsert("work")])
