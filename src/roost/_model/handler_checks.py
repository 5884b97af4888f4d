"""Refuse handlers, args models and cron args that don't fit together, at their declaration."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from pydantic import BaseModel, ValidationError

from roost._model.arguments import read_model
from roost._model.codec import encode
from roost._model.functions import location
from roost.exceptions import InvalidSettingError


def check_handler(name: str, func: object) -> None:
    """Refuse an object that can't be a handler.

    :raises InvalidSettingError: it is a class, can't be called, or can't be called by keywords.
    """
    if isinstance(func, type):
        raise InvalidSettingError(
            f"task {name!r}: @job decorates functions, and {func.__qualname__} of "
            f"{func.__module__} is a class"
        )
    if not callable(func):
        raise InvalidSettingError(f"the handler of {name!r} is not callable: {func!r}")
    for parameter in () if inspect.isbuiltin(func) else _parameters(func):
        if parameter.kind is parameter.POSITIONAL_ONLY and parameter.default is parameter.empty:
            raise InvalidSettingError(
                f"task {name!r}: a handler is called with keywords, and {parameter.name!r} of "
                f"{location(func)} is positional-only"
            )


def check_args_model(
    name: str, func: Callable[..., Any], args_model: object, *, injected: frozenset[str]
) -> None:
    """Refuse an ``args_model`` that is not a model, or whose fields don't fit the handler.

    :raises InvalidSettingError: see above.
    """
    if args_model is None:
        return
    if not (isinstance(args_model, type) and issubclass(args_model, BaseModel)):
        shown = args_model.__name__ if isinstance(args_model, type) else repr(args_model)
        raise InvalidSettingError(
            f"task {name!r}: args_model must be a class derived from pydantic's BaseModel, not "
            f"{shown}, at {location(func)}"
        )
    fields = args_model.model_fields.keys()
    parameters = _parameters(func)
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        unknown = fields - {parameter.name for parameter in parameters}
        if unknown:
            raise InvalidSettingError(
                f"task {name!r}: {args_model.__name__} has the fields {sorted(unknown)}, and "
                f"{location(func)} has no parameters for them"
            )
    missing = {*_required(func)} - {*fields, *injected}
    if missing and args_model.model_config.get("extra") != "allow":
        raise InvalidSettingError(
            f"task {name!r}: {location(func)} needs {sorted(missing)}, and {args_model.__name__} "
            "has no fields for them"
        )


def check_cron_args(
    name: str,
    func: Callable[..., Any],
    args: Mapping[str, Any],
    *,
    args_model: type[BaseModel] | None,
    injected: frozenset[str],
) -> None:
    """Refuse a cron entry whose args its handler can't be called with.

    :raises InvalidSettingError: the model does not accept them; or, without a model, one is
        missing, or the handler has no parameter for one.
    """
    if args_model is not None:
        try:
            read_model(args_model, encode(dict(args)))
        except ValidationError as error:
            raise InvalidSettingError(
                f"{args_model.__name__} of {location(func)} does not accept the args of cron entry "
                f"{name!r}: {error}"
            ) from error
        return
    missing = {*_required(func)} - {*args, *injected}
    if missing:
        raise InvalidSettingError(
            f"cron entry {name!r} gives no value for {sorted(missing)} of {location(func)}: pass "
            "args={...}. If an args_model has defaults for them, put @cron above @job"
        )
    parameters = _parameters(func)
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return
    unknown = args.keys() - {parameter.name for parameter in parameters}
    if unknown:
        raise InvalidSettingError(
            f"args of cron entry {name!r}: {location(func)} has no parameters for {sorted(unknown)}"
        )


_UNKNOWN: tuple[inspect.Parameter, ...] = (
    inspect.Parameter("kwargs", inspect.Parameter.VAR_KEYWORD),
)
"""A function whose signature can't be read, such as one in C, may accept anything."""


def _parameters(func: Callable[..., Any]) -> tuple[inspect.Parameter, ...]:
    try:
        return tuple(inspect.signature(func).parameters.values())
    except (TypeError, ValueError):
        return _UNKNOWN


def _required(func: Callable[..., Any]) -> list[str]:
    by_name = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return [
        parameter.name
        for parameter in _parameters(func)
        if parameter.kind in by_name and parameter.default is parameter.empty
    ]
