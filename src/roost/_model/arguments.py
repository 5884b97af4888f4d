"""Dump a pydantic model as a job's args, so that the worker reads back an equal model.

Some models can't read what they write: `SecretStr`, computed fields that are forbidden as input,
``Json[...]``, aliases, custom serializers. So each dump is read again and compared, and a model
that differs is refused. Models whose fields all have plain types need no check; this is remembered
for each class.
"""

from __future__ import annotations

import types
from collections.abc import Iterable, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any, NamedTuple, TypeVar, Union, get_args, get_origin
from uuid import UUID
from weakref import WeakKeyDictionary

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import from_json, to_json

from roost.exceptions import InvalidJobError

Model = TypeVar("Model", bound=BaseModel)

# Models are dumped with field names; a dict that a user passed may have aliases.
_BY_NAME: dict[str, Any] = {"by_name": True, "by_alias": True}

_Options = Mapping[str, Any]
# "error": refuse a value that is not of its field's type (from model_construct, an assignment).
_DUMP_OPTIONS: tuple[_Options, ...] = (
    {"by_alias": False, "warnings": "error"},
    # Without computed fields, and Json[...] as the text that it is read from.
    {"by_alias": False, "warnings": "error", "round_trip": True},
)


def read_model(model: type[Model], text: str) -> Model:
    """Return the model of a job's args, which are JSON text.

    It is validated as JSON, not as Python values, so that a strict model accepts the text of a UUID
    or a time.

    :raises ValidationError: pydantic's; a user's validator may raise other errors.
    """
    try:
        return model.model_validate_json(text, **_BY_NAME)
    except ValidationError as error:
        if error.errors(include_url=False, include_input=False)[0]["type"] != "json_invalid":
            raise
    # pydantic's parser refuses deep nesting that Postgres and `decode` accept.
    from roost._model.codec import decode

    return model.model_validate(decode(text), **_BY_NAME)


def handler_arguments(model: BaseModel, *, accepted: frozenset[str] | None) -> dict[str, Any]:
    """Return a handler's keyword arguments: the model's fields and the extra ones it accepts.

    :param accepted: the handler's parameters; ``None``: it accepts any keyword.
    """
    arguments = {name: getattr(model, name) for name in type(model).model_fields}
    extra = model.__pydantic_extra__ or {}
    return arguments | {
        name: value for name, value in extra.items() if accepted is None or name in accepted
    }


def dump_model(args: BaseModel, *, reader: type[BaseModel] | None) -> dict[str, Any]:
    """Return a model as a dict of JSON values from which an equal model is read.

    :param reader: the handler's model, or ``None`` if it is not known here; then the model's own
        class is used.
    :raises InvalidJobError: the model can't be dumped, or would be read as a different one. The
        message names the field and no value.
    """
    model = type(args)
    if reader is None or reader is model:
        plain = _plain_fields(model)
        if plain is not None and _has_plain_values(args, plain):
            return _dump(args, {})
    refused: InvalidJobError | None = None
    for options in _DUMP_OPTIONS:
        dumped = _dump(args, options)
        try:
            _check_reads_back(args, dumped, options, reader or model)
        except InvalidJobError as error:
            refused = refused or error
        else:
            return dumped
    assert refused is not None  # noqa: S101  (the loop runs at least once)
    raise refused


def _dump(args: BaseModel, options: _Options) -> dict[str, Any]:
    name = type(args).__name__
    try:
        dumped: object = args.model_dump(mode="json", **options)
    except Exception as error:  # user-defined serializers run here
        raise InvalidJobError(f"args can't be stored: {name}: {error}") from error
    if not isinstance(dumped, dict):
        raise InvalidJobError(
            f"args must have named fields, and {name} is dumped as {type(dumped).__name__}"
        )
    return dumped


def _check_reads_back(
    args: BaseModel, dumped: dict[str, Any], options: _Options, reader: type[BaseModel]
) -> None:
    model = type(args)
    text = _as_text(dumped)
    same = _read(model, text)
    for name in (*model.model_fields, *(args.__pydantic_extra__ or ())):
        if not _equal(_value(args, name), _value(same, name)):
            raise InvalidJobError(
                f"args would change on the way: the field {name!r} of {model.__name__} is read "
                f"back as another value{_hint(_value(args, name))}"
            )
    if reader is not model:
        read = _read(reader, text)
        if from_json(_as_text(_dump(read, options))) != from_json(text):
            raise InvalidJobError(
                f"args would change on the way: {model.__name__} has fields that the handler's "
                f"{reader.__name__} reads differently or ignores"
            )


def _as_text(dumped: dict[str, Any]) -> str:
    try:
        return to_json(dumped).decode()
    except Exception as error:
        raise InvalidJobError(f"args can't be stored: {error}") from error


def _read(model: type[BaseModel], text: str) -> BaseModel:
    try:
        return read_model(model, text)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        place = ".".join(map(str, first["loc"])) or "the top level"
        raise InvalidJobError(
            f"args could not be read by the handler: {model.__name__} does not accept its own "
            f"dump, at {place}: {first['msg']}"
        ) from None
    except Exception as error:  # user-defined validators run here
        raise InvalidJobError(
            f"args could not be read by the handler: {model.__name__} raised {type(error).__name__}"
        ) from error


def _value(model: BaseModel, name: str) -> object:
    extra = model.__pydantic_extra__ or {}
    return extra[name] if name in extra else getattr(model, name, None)


def _equal(value: object, other: object) -> bool:
    try:
        return _arrives_as(type(value), type(other)) and bool(value == other)
    except Exception:  # noqa: BLE001  (a user's __eq__ may raise anything)
        return False


def _arrives_as(sent: type, read: type) -> bool:
    # A subclass of a plain type, such as pendulum's times, is read back as the plain type.
    return sent is read or (
        read in _PLAIN and issubclass(sent, read) and not issubclass(sent, (Enum, bool))
    )


def _hint(value: object) -> str:
    if hasattr(value, "get_secret_value"):
        return ": a secret is masked in JSON; store it elsewhere and pass its key"
    if isinstance(value, datetime) and _has_odd_offset(value):
        return ": its UTC offset has seconds; pass value.astimezone(UTC)"
    return ""


_PLAIN = frozenset((str, int, float, bool, UUID, Decimal, date, datetime))
_PLAIN_CONFIG = frozenset(("frozen", "title", "strict", "validate_assignment", "str_max_length"))


class _PlainField(NamedTuple):
    """A field of a plain model.

    :param kind: the field's type.
    :param inside: for a container, the type of its items or values.
    :param nullable: whether it may be ``None``.
    """

    name: str
    kind: type
    inside: type | None
    nullable: bool


_known: WeakKeyDictionary[type[BaseModel], tuple[_PlainField, ...] | None] = WeakKeyDictionary()


def _plain_fields(model: type[BaseModel]) -> tuple[_PlainField, ...] | None:
    """Return the fields of a model whose fields all have plain types; else ``None``."""
    try:
        return _known[model]
    except KeyError:
        found = _known[model] = _examine(model)
        return found


def _has_plain_values(args: BaseModel, fields: tuple[_PlainField, ...]) -> bool:
    """Return whether each value has its field's type; values may have skipped validation."""
    values = vars(args)
    for name, kind, inside, nullable in fields:
        value: Any = values.get(name)
        if value is None and nullable:
            continue
        if type(value) is not kind or (kind is datetime and _has_odd_offset(value)):
            return False
        if inside is not None and not _has_plain_items(value, inside):
            return False
    return True


def _has_plain_items(value: Any, inside: type) -> bool:
    if isinstance(value, dict):
        return _all_of(value, str) and _all_of(value.values(), inside)
    return _all_of(value, inside)


def _all_of(items: Iterable[object], kind: type) -> bool:
    return {kind}.issuperset(map(type, items))


def _examine(model: type[BaseModel]) -> tuple[_PlainField, ...] | None:
    if _has_code_of_its_own(model):
        return None
    fields = [_examine_field(name, field) for name, field in model.model_fields.items()]
    return tuple(field for field in fields if field) if all(fields) else None


def _examine_field(name: str, field: FieldInfo) -> _PlainField | None:
    """Return the field if its type is plain and it has no options; else ``None``."""
    names = (field.alias, field.validation_alias, field.serialization_alias)
    if any(alias is not None for alias in names) or field.exclude or field.metadata:
        return None
    annotation = _without_none(field.annotation)
    nullable = annotation is not field.annotation
    if annotation in _PLAIN and isinstance(annotation, type):
        return _PlainField(name, annotation, None, nullable)
    kind, inside = get_origin(annotation), get_args(annotation)
    if kind is dict and inside[0] is not str:
        return None
    if kind not in (dict, list, set, frozenset) or inside[-1] not in _PLAIN - {datetime}:
        return None
    return _PlainField(name, kind, inside[-1], nullable)


def _has_code_of_its_own(model: type[BaseModel]) -> bool:
    """Return whether a model's config or methods change how it is validated or dumped."""
    config = {**model.model_config}
    if config.pop("extra", "ignore") == "allow" or not config.keys() <= _PLAIN_CONFIG:
        return True
    decorators = model.__pydantic_decorators__
    if any(getattr(decorators, name) for name in type(decorators).__dataclass_fields__):
        return True
    if model.__pydantic_root_model__ or model.__pydantic_post_init__ is not None:
        return True
    names = ("__init__", "__new__", "__get_pydantic_core_schema__", "model_dump", "__eq__")
    return not all(_is_inherited(model, name) for name in names)


def _is_inherited(model: type[BaseModel], name: str) -> bool:
    """Return whether a method is inherited from `BaseModel`."""
    return not any(name in vars(base) for base in model.__mro__[: -len(BaseModel.__mro__)])


def _without_none(annotation: object) -> object:
    if get_origin(annotation) in (Union, types.UnionType):
        others = [part for part in get_args(annotation) if part is not type(None)]
        if len(others) == 1:
            return others[0]
    return annotation


def _has_odd_offset(value: object) -> bool:
    if not isinstance(value, datetime) or value.tzinfo is None:
        return False
    offset = value.utcoffset()
    return offset is not None and bool(offset % _MINUTE)


_MINUTE = timedelta(minutes=1)
