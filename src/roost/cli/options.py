"""Options that several commands share, and a worker's settings as options."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Annotated, Any, TypeVar, get_type_hints

import attrs
import typer

from roost import InvalidSettingError, Worker, WorkerSettings

F = TypeVar("F", bound=Callable[..., Any])

DSN_VARIABLES = ("ROOST_DSN", "DATABASE_URL")

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        help="Where the database is: postgresql://user:password@host/name. Default: the "
        "environment's ROOST_DSN, else DATABASE_URL. Other users of this machine may see the "
        "arguments of a process, so a password is better kept in the environment.",
        show_default=False,
    ),
]


class Backend(StrEnum):
    """The event loops that Roost runs on."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


class Driver(StrEnum):
    """The drivers that reach the database."""

    PSYCOPG = "psycopg"
    ASYNCPG = "asyncpg"


class LogLevel(StrEnum):
    """The least important messages to show."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ChosenBackend = Annotated[Backend, typer.Option("--backend", help="The event loop to run on.")]
ChosenDriver = Annotated[
    Driver | None,
    typer.Option(
        "--driver",
        help="What to reach the database with; asyncpg runs on asyncio only. Default: what the "
        "DSN says, such as postgresql+asyncpg://, else psycopg.",
        show_default=False,
    ),
]


def resolve_dsn(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return the option's value, else that of the first of `DSN_VARIABLES` that is set.

    :raises InvalidSettingError: there is none.
    """
    for dsn in (given, *map(environment.get, DSN_VARIABLES)):
        if dsn:
            return dsn
    raise InvalidSettingError("no database is named: use --dsn, or set ROOST_DSN or DATABASE_URL")


def takes_worker_settings(command: F) -> F:
    """Give a command that takes ``**settings`` an option for each of a worker's settings.

    Names, types, defaults and help come from `WorkerSettings`, so a setting is an option as soon as
    it exists. Left out: what the command has itself, and functions and objects, which no word can
    express. Under ``python -OO`` there are no docstrings, and so no help.
    """
    shown = inspect.signature(command)
    own = get_type_hints(command, include_extras=True)
    own.pop("return", None)
    own.pop("settings")
    parameters = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=shown.parameters[name].default
        )
        for name in own
    ]
    types = get_type_hints(Worker.__init__)
    meanings = _meanings()
    for field in attrs.fields(WorkerSettings):
        if field.name in {"queues", "retry_strategy", "hooks", *own}:
            continue
        own[field.name] = Annotated[
            types[field.name],
            typer.Option(
                help=meanings.get(field.name),
                rich_help_panel="The worker's settings, times in seconds",
            ),
        ]
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        )
    command.__annotations__ = own
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # inspect's own hook
        [parameter.replace(annotation=own[parameter.name]) for parameter in parameters]
    )
    return command


def _meanings() -> dict[str, str]:
    """Return what `Worker` says of each parameter, as one plain sentence."""
    said = re.findall(
        r":param (\w+): (.*?)(?=\n *:(?:param|raises)|\Z)", Worker.__doc__ or "", re.DOTALL
    )
    plain = {name: " ".join(text.replace("`", "").split()) for name, text in said}
    return {name: text[:1].upper() + text[1:] for name, text in plain.items()}
