"""The handler gets a model equal to the one that was enqueued, or the enqueue refuses it."""

from __future__ import annotations

import dataclasses
import enum
import json
import math
import uuid
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Generic, Literal, TypeVar
from zoneinfo import ZoneInfo

import pytest
from pydantic import (
    AliasChoices,
    AliasPath,
    BaseModel,
    ConfigDict,
    Field,
    Json,
    PrivateAttr,
    RootModel,
    SecretBytes,
    SecretStr,
    SerializeAsAny,
    computed_field,
    field_serializer,
    field_validator,
    model_serializer,
)

from roost import HandlerRegistry, InvalidJobError, JobInsert, job
from roost._model import arguments
from roost._model.arguments import handler_arguments, read_model
from roost._model.encoding import encode_batch, encode_jobs

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ODD = timezone(timedelta(hours=1, seconds=30))
T = TypeVar("T")


class Color(enum.Enum):
    RED = "red"


class Strict(BaseModel):
    model_config = ConfigDict(strict=True)
    number: uuid.UUID
    at: datetime
    price: Decimal
    color: Color
    pair: tuple[int, str]
    data: bytes = b"text"


class Computed(BaseModel):
    model_config = ConfigDict(extra="forbid")
    side: int

    @computed_field  # type: ignore[prop-decorator]  # mypy's limit
    @property
    def area(self) -> int:
        return self.side**2


class HoldsComputed(BaseModel):
    inner: list[Computed]


class HoldsJson(BaseModel):
    inner: Json[list[int]]


class Open(BaseModel):
    model_config = ConfigDict(extra="allow")
    a: int


class Aliased(BaseModel):
    a: int = Field(alias="A")
    b: int = Field(validation_alias="B")
    c: int = Field(1, serialization_alias="C")
    d: int = Field(validation_alias=AliasChoices("D", "dd"))


class Deep(BaseModel):
    a: int = Field(validation_alias=AliasPath("outer", 0))


class Swapped(BaseModel):
    model_config = ConfigDict(populate_by_name=True)
    a: int = Field(alias="b")
    b: int = Field(alias="a")


class Pairs(RootModel[dict[str, datetime]]):
    pass


class Box(BaseModel, Generic[T]):
    item: T


class Cat(BaseModel):
    kind: Literal["cat"] = "cat"
    name: str


class Dog(BaseModel):
    kind: Literal["dog"] = "dog"
    name: str


class Owner(BaseModel):
    pet: Annotated[Cat | Dog, Field(discriminator="kind")]


@dataclasses.dataclass
class Point:
    x: int
    at: date


class Rich(BaseModel):
    raw: bytes = b"text"
    keys: dict[int, str] = {1: "a"}
    pair: tuple[int, ...] = (1, 2)
    tags: set[str] = {"a", "b"}
    frozen: frozenset[int] = frozenset({1})
    price: Decimal = Decimal("1.10")
    naive: datetime = datetime(2026, 3, 1, 12)  # noqa: DTZ001
    aware: datetime = NOON
    zoned: datetime = NOON.astimezone(ZoneInfo("Asia/Kolkata"))
    clock: time = time(12, 30)
    day: date = date(2026, 3, 1)
    span: timedelta = timedelta(days=-1, microseconds=5)
    color: Color = Color.RED
    path: Path = Path("/a/b")
    number: uuid.UUID = uuid.UUID(int=7)
    point: Point = Point(1, date(2026, 3, 1))
    huge: int = 10**300
    text: str = "\N{HATCHING CHICK}"
    nothing: str | None = None


class Plain(BaseModel):
    a: int
    b: str = "b"
    c: uuid.UUID | None = None
    at: datetime | None = None
    tags: list[str] = []
    prices: dict[str, Decimal] = {}


class Base(BaseModel):
    a: int = 1


class Extended(Base):
    b: int = 2


class HoldsBase(BaseModel):
    base: Base
    many: list[Base] = []


class Anything(BaseModel):
    value: Any


class Lossy(BaseModel):
    a: float

    @field_serializer("a")
    def rounded(self, value: float) -> float:
        return round(value, 1)


class Upper(BaseModel):
    a: str

    @field_validator("a")
    @classmethod
    def twice(cls, value: str) -> str:
        return value * 2


class Flat(BaseModel):
    a: int

    @model_serializer
    def flat(self) -> str:
        return str(self.a)


class Excluded(BaseModel):
    a: int
    b: int = Field(2, exclude=True)


class Private(BaseModel):
    a: int
    _seen: int = PrivateAttr(default=0)


class HoldsPrivate(BaseModel):
    inner: Private


class Secret(BaseModel):
    password: SecretStr


class SecretInBytes(BaseModel):
    password: SecretBytes | None = None


class OwnInit(BaseModel):
    a: int

    def __init__(self, **data: Any) -> None:
        super().__init__(a=data["a"] + 1)


def private(cls: type[BaseModel], seen: int) -> Private:
    made = Private(a=1)
    made._seen = seen
    return made


ARRIVE: dict[str, BaseModel] = {
    "strict": Strict(
        number=uuid.UUID(int=5), at=NOON, price=Decimal(1), color=Color.RED, pair=(1, "a")
    ),
    "computed": Computed(side=3),
    "computed inside": HoldsComputed(inner=[Computed(side=3)]),
    "json": HoldsJson(inner="[1, 2]"),  # type: ignore[arg-type]  # what it is read from
    "extra": Open(a=1, b=["x"]),  # type: ignore[call-arg]  # which it allows
    "aliases": Aliased.model_validate({"A": 1, "B": 2, "c": 3, "D": 4}),
    "root": Pairs({"a": NOON}),
    "generic": Box[datetime](item=NOON),
    "generic list": Box[list[uuid.UUID]](item=[uuid.UUID(int=1)]),
    "union": Owner(pet=Dog(name="Rex")),
    "rich": Rich(),
    "plain": Plain(a=1, c=uuid.UUID(int=1), at=NOON, tags=["x"], prices={"a": Decimal("0.10")}),
    "excluded default": Excluded.model_validate({"a": 1}),
    "private": Private(a=1),
    "any": Anything(value={"a": [1, None, "x", 1.5]}),
    "lossy but exact": Lossy(a=0.5),
    "path alias": Deep.model_validate({"outer": [5]}),
}

REFUSED: dict[str, Callable[[], BaseModel]] = {
    "secret": lambda: Secret(password=SecretStr("hush")),
    "secret bytes": lambda: SecretInBytes(password=SecretBytes(b"hush")),
    "bytes that are no UTF-8": lambda: Rich(raw=b"\xff"),
    "lossy serializer": lambda: Lossy(a=0.55),
    "validator that changes": lambda: Upper.model_construct(a="x"),
    "flat": lambda: Flat(a=1),
    "excluded": lambda: Excluded(a=1, b=3),
    "private inside": lambda: HoldsPrivate(inner=private(Private, 5)),
    "subclass inside": lambda: HoldsBase(base=Extended()),
    "subclass in a list": lambda: HoldsBase(base=Base(), many=[Extended()]),
    "subclass of a generic": lambda: Box[SerializeAsAny[Base]](item=Extended()),
    "any datetime": lambda: Anything(value=NOON),
    "any tuple": lambda: Anything(value=(1, 2)),
    "any bytes": lambda: Anything(value=b"x"),
    "any secret": lambda: Anything(value=SecretStr("hush")),
    "int keys of any": lambda: Anything(value={1: 2}),
    "extra datetime": lambda: Open(a=1, b=NOON),  # type: ignore[call-arg]  # which it allows
    "offset with seconds": lambda: Plain(a=1, at=NOON.astimezone(ODD)),
    "offset with seconds, not plain": lambda: Rich(aware=NOON.astimezone(ODD)),
    "swapped aliases": lambda: Swapped.model_validate({"a": 1, "b": 2}),
    "NaN": lambda: Anything(value=math.nan),
    "infinity": lambda: Box[float](item=math.inf),
    "NUL": lambda: Plain(a=1, b="\0"),
    "surrogate": lambda: Plain.model_construct(a=1, b="\ud800"),
    "digits": lambda: Rich(huge=10**4_300),
    "unvalidated": lambda: Plain.model_construct(a="one"),
    "unvalidated default": lambda: Plain.model_construct(a=None),
    "unvalidated in a list": lambda: Plain.model_construct(a=1, tags=["x", 1]),
    "unvalidated keys": lambda: Plain.model_construct(a=1, prices={1: Decimal(1)}),
    "own init": lambda: OwnInit(a=1),
}


def sent(model: BaseModel, registry: HandlerRegistry | None = None) -> str:
    [record] = json.loads(encode_jobs([JobInsert("work", model)], registry))
    return json.dumps(record["args"])


@pytest.mark.parametrize("model", ARRIVE.values(), ids=ARRIVE)
@pytest.mark.parametrize("known", [True, False])
def test_a_model_is_read_back_equal(
    model: BaseModel, known: bool, registry: HandlerRegistry
) -> None:
    job("work", args_model=type(model), registry=registry)(lambda **fields: None)
    read = read_model(type(model), sent(model, registry if known else None))
    assert handler_arguments(read, accepted=None) == handler_arguments(model, accepted=None)


@pytest.mark.parametrize("make", REFUSED.values(), ids=REFUSED)
def test_a_model_that_is_read_back_different_is_refused_without_its_values(
    make: Callable[[], BaseModel], registry: HandlerRegistry
) -> None:
    model = make()
    job("work", args_model=type(model), registry=registry)(lambda **fields: None)
    for known in (registry, None):
        with pytest.raises(InvalidJobError, match="args") as refusal:
            encode_jobs([JobInsert("work", model)], known)
        assert "hush" not in str(refusal.value)
        with pytest.raises(InvalidJobError, match="job 1 of the batch"):
            encode_batch([JobInsert("work"), JobInsert("work", model)], known)


def test_a_subclass_of_the_handlers_model_is_refused_if_it_has_more(
    registry: HandlerRegistry,
) -> None:
    job("work", args_model=Base, registry=registry)(lambda a: None)
    with pytest.raises(InvalidJobError, match="Extended has fields that the handler's Base"):
        sent(Extended(), registry)

    class Same(Base):
        pass

    assert json.loads(sent(Same(a=3), registry)) == {"a": 3}


def test_another_model_of_the_same_shape_is_accepted(registry: HandlerRegistry) -> None:
    class Producers(BaseModel):
        pet: Annotated[Cat | Dog, Field(discriminator="kind")]

    job("work", args_model=Owner, registry=registry)(lambda pet: None)
    assert json.loads(sent(Producers(pet=Cat(name="Tom")), registry))["pet"]["name"] == "Tom"
    with pytest.raises(InvalidJobError, match="Owner does not accept its own dump"):
        sent(Plain(a=1), registry)


def test_extra_fields_need_a_handler_that_accepts_them(registry: HandlerRegistry) -> None:
    model = Open(a=1, b=2)  # type: ignore[call-arg]  # which it allows
    job("named", args_model=Open, registry=registry)(lambda a, b=0: None)
    job("any", args_model=Open, registry=registry)(lambda a, **more: None)
    job("none", args_model=Open, registry=registry)(lambda a: None)
    for task in ("named", "any"):
        encode_jobs([JobInsert(task, model)], registry)
    with pytest.raises(InvalidJobError, match=r"extra fields \['b'\]"):
        encode_jobs([JobInsert("none", model)], registry)
    assert handler_arguments(model, accepted=registry.handler_of("named").accepted) == {
        "a": 1,
        "b": 2,
    }
    assert handler_arguments(model, accepted=registry.handler_of("none").accepted) == {"a": 1}


def test_plain_models_are_not_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        pytest.fail("it was read")

    monkeypatch.setattr(arguments, "read_model", read)
    assert json.loads(sent(Plain(a=1, at=NOON)))["at"] == "2026-03-01T12:00:00Z"
    with pytest.raises(pytest.fail.Exception):
        sent(Rich())


def test_text_nested_deeper_than_pydantic_accepts_is_read() -> None:
    text = '{"value": ' + "[" * 230 + "]" * 230 + "}"
    assert json.dumps(read_model(Anything, text).value) == "[" * 230 + "]" * 230
