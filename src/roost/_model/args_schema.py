"""The JSON Schema of a task's args: from its model, else from its function's annotations."""

from __future__ import annotations

import inspect
import typing
import warnings
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from roost._model.codec import EncodingError, encode
from roost._model.registry import Handler

MAX_SCHEMA_CHARS = 64 << 10
"""A longer schema is not published."""


def args_schema(handler: Handler) -> str | None:
    """Return the schema as JSON text; ``None``: none can be generated, or it is too long.

    A default that can't be stored, such as infinity, is left out.
    """
    try:
        with warnings.catch_warnings():
            # Of a default that has no JSON form, or of a parameter that is named like a method.
            warnings.simplefilter("ignore")
            model = handler.args_model or _model_of(handler)
            schema = model.model_json_schema(by_alias=False)
        _drop_unstorable_defaults(schema)
        text = encode(schema)
    except Exception:  # noqa: BLE001  (annotations and models run the user's code)
        return None
    return text if len(text) <= MAX_SCHEMA_CHARS else None


def _drop_unstorable_defaults(schema: object, *, has_names: bool = False) -> None:
    """Remove each ``default`` that has no JSON form.

    :param has_names: whether the keys of ``schema`` are names of the user's, which may be
        ``default`` too.
    """
    if isinstance(schema, list):
        for item in schema:
            _drop_unstorable_defaults(item)
    elif isinstance(schema, dict):
        for key, value in list(schema.items()):
            if has_names or key != "default":
                _drop_unstorable_defaults(
                    value, has_names=not has_names and key in ("properties", "$defs")
                )
            elif not _can_be_stored(value):
                del schema[key]


def _can_be_stored(value: object) -> bool:
    try:
        encode(value)
    except EncodingError:
        return False
    return True


def _model_of(handler: Handler) -> type[BaseModel]:
    """Return a model of the function's parameters, without those that the worker fills."""
    func = handler.func
    hints = typing.get_type_hints(inspect.unwrap(func), include_extras=True)
    injected = {handler.job_parameter, handler.state_parameter}
    fields: dict[str, Any] = {}
    takes_any = False
    for name, parameter in inspect.signature(func).parameters.items():
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif parameter.kind is not parameter.VAR_POSITIONAL and name not in injected:
            default = ... if parameter.default is parameter.empty else parameter.default
            fields[name] = (hints.get(name, Any), default)
    config = ConfigDict(extra="allow" if takes_any else "forbid")
    model: type[BaseModel] = create_model(handler.name, __config__=config, **fields)
    if model.model_fields.keys() != fields.keys():
        raise TypeError("pydantic takes no field of such a name")  # it has an underscore in front
    return model
