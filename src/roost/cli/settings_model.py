"""The settings as a pydantic model, which is made of the options of ``roost run``.

Imported only when a setting is given: pydantic-settings takes time to import.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from enum import Enum
from typing import Annotated, Any, get_args, get_type_hints

import attrs
import typer
from pydantic import BeforeValidator, ValidationError, create_model
from pydantic_settings import BaseSettings, EnvSettingsSource, SettingsConfigDict

from roost import InvalidSettingError, WorkerSettings
from roost.cli.options import BY_STATE, parse_queues, seconds_by_state
from roost.cli.settings import PREFIX, setting_of

NOT_SETTINGS = {"context", "once", "supervised"}
"""Parameters of ``roost run`` that concern one call."""


class CommandSettings(BaseSettings):
    """The base of the model. Values are text as in the environment, or as TOML has them."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, env_ignore_empty=True, enable_decoding=False, extra="forbid"
    )

    @classmethod
    def settings_customise_sources(  # type: ignore[override]  # as pydantic-settings calls it
        cls, _model: Any, *, init_settings: Any, **_others: Any
    ) -> tuple[Any, ...]:
        """Take the values that are passed, and no others: the caller has merged the sources."""
        return (init_settings,)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> dict[str, Any]:
        """Return the values of the environment, by setting."""
        source = EnvSettingsSource(cls)
        source.env_vars = {name.lower(): value for name, value in environment.items() if value}
        return source()


def settings_model() -> type[CommandSettings]:
    """Return the model: ``dsn``, ``json``, and a field for each option of ``roost run``."""
    from roost.cli.run import run

    kinds = get_type_hints(run)
    names = [name for name in inspect.signature(run).parameters if name not in NOT_SETTINGS]
    fields: dict[str, Any] = {setting_of(name): _field(kinds[name]) for name in names}
    fields["json"] = _field(bool)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message='Field name "json" .* shadows an attribute')
        return create_model("CommandSettings", __base__=CommandSettings, **fields)


def _field(kind: Any) -> tuple[Any, None]:
    lists = any(part == list[str] for part in (kind, *get_args(kind)))
    numbers = not any(part is bool for part in (kind, *get_args(kind)))
    if lists:
        return Annotated[kind | None, BeforeValidator(_as_list)], None
    return Annotated[kind | None, BeforeValidator(_no_bool)] if numbers else kind | None, None


def _as_list(value: object) -> object:
    """Accept ``a,b`` and, for values by name, ``name=value`` or a table."""
    match value:
        case str():
            return [part.strip() for part in value.split(",") if part.strip()]
        case Mapping():
            return [f"{name}={item}" for name, item in value.items()]
        case int() | float() if not isinstance(value, bool):
            return [str(value)]
    return value


def _no_bool(value: object) -> object:
    if isinstance(value, bool):
        raise ValueError("must not be true or false")  # noqa: TRY004  (pydantic reports this one)
    return value


def validate(
    model: type[CommandSettings], values: Mapping[str, Any], sources: Mapping[str, str]
) -> dict[str, Any]:
    """Return the values in the form that the options of a command take.

    :param sources: what each value comes from, for the message.
    :raises InvalidSettingError: a value has the wrong type, or is out of its range.
    """
    try:
        checked = model(**values)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = str(first["loc"][0])
        why = first["msg"].removeprefix("Value error, ")
        shown = "" if name == "dsn" else f", not {values[name]!r}"
        raise InvalidSettingError(f"{sources[name]}: {name}: {_small(why)}{shown}") from None
    found = {name: getattr(checked, name) for name in values}
    for name, value in found.items():
        try:
            _check_range(name, value)
        except (InvalidSettingError, typer.BadParameter) as error:
            raise InvalidSettingError(f"{sources[name]}: {error}") from None
    return {name: v.value if isinstance(v, Enum) else v for name, v in found.items()}


def _check_range(name: str, value: Any) -> None:
    """Check one value as `WorkerSettings` does, if it is one of its settings."""
    field = attrs.fields_dict(WorkerSettings).get(name)
    if field is None:
        return
    if name == "queues":
        value = parse_queues(value)
    elif name in BY_STATE:
        value = seconds_by_state(value)
    if callable(field.converter):
        field.converter(value)
    elif field.validator is not None:
        field.validator(None, field, value)


def _small(sentence: str) -> str:
    return sentence[:1].lower() + sentence[1:]
