"""Options that several commands have, and an option for each of a worker's settings."""

from __future__ import annotations

import inspect
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from enum import StrEnum
from typing import Annotated, Any, TypeVar, get_type_hints

import attrs
import typer

from roost import InvalidSettingError, Worker, WorkerSettings
from roost.cli import settings
from roost.cli.dev_database import find_dev_dsn, where_searched

F = TypeVar("F", bound=Callable[..., Any])

DSN_VARIABLES = ("ROOST_DSN", "DATABASE_URL")

Dsn = Annotated[
    str | None,
    typer.Option(
        "--dsn",
        help="The database, as postgresql://user:password@host/name. Default: the environment "
        "variable ROOST_DSN, else DATABASE_URL, else dsn in [tool.roost] of pyproject.toml, else "
        "the database of the `roost dev` that runs in this folder or above. Other users of this "
        "machine can see a process's arguments, so keep a password in the environment.",
        show_default=False,
    ),
]


class Backend(StrEnum):
    """The event loops that Roost runs on."""

    ASYNCIO = "asyncio"
    TRIO = "trio"


class Driver(StrEnum):
    """The database drivers."""

    PSYCOPG = "psycopg"
    ASYNCPG = "asyncpg"


class LogLevel(StrEnum):
    """The lowest level of log messages to show."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


ChosenBackend = Annotated[Backend, typer.Option("--backend", help="The event loop to run on.")]
ChosenDriver = Annotated[
    Driver | None,
    typer.Option(
        "--driver",
        help="The database driver; asyncpg runs on asyncio only. Default: the driver that the DSN "
        "names, as in postgresql+asyncpg://, else psycopg.",
        show_default=False,
    ),
]


@attrs.frozen
class FoundDsn:
    """A DSN, and what it comes from: ``option``, the name of a variable, or a path."""

    dsn: str
    source: str


def find_dsn(given: str | None, environment: Mapping[str, str] = os.environ) -> FoundDsn:
    """Return the DSN of the option, of the first of `DSN_VARIABLES` that is set, of a file, or of
    the `roost dev` that runs in this folder or above.

    :raises InvalidSettingError: none is given.
    """
    if given:
        return FoundDsn(given, "option")
    for variable in DSN_VARIABLES:
        if dsn := environment.get(variable):
            return FoundDsn(dsn, variable)
    if in_file := settings.current().given.get("dsn"):
        return FoundDsn(in_file.value, in_file.source)
    if found := find_dev_dsn():
        dsn, data_dir = found
        return FoundDsn(dsn, str(data_dir))
    raise InvalidSettingError(
        "no database is given: use --dsn, set ROOST_DSN or DATABASE_URL, or set dsn in "
        f"[tool.roost] of pyproject.toml; and no `roost dev` runs {where_searched()}"
    )


def resolve_dsn(given: str | None, environment: Mapping[str, str] = os.environ) -> str:
    """Return what `find_dsn` finds, without its source."""
    return find_dsn(given, environment).dsn


BY_STATE = {
    "archive_after_seconds": "Time after its end at which a job moves to roost.jobs_archive, ≥ 0. "
    "completed=3600 is for jobs of that state only; repeat it for several. Default: this worker "
    "archives nothing.",
    "delete_after_seconds": "Time after its end at which a job is deleted for good, also from the "
    "archive, ≥ 0. completed=3600 is for jobs of that state only; repeat it for several. Default: "
    "this worker deletes nothing.",
}
"""Settings of seconds by state, and the help of their options."""


def seconds_by_state(given: list[str] | None) -> float | dict[str, float] | None:
    """Read ``SECONDS``, or one or more ``STATE=SECONDS``.

    :raises typer.BadParameter: it is neither, or a state is given twice.
    """
    found: dict[str, float] = {}
    for text in given or ():
        state, by_state, seconds = text.rpartition("=")
        try:
            number = float(seconds)
        except ValueError:
            raise typer.BadParameter(f"not seconds: {seconds!r}") from None
        if by_state and not state:
            raise typer.BadParameter(f"no state before the '=': {text!r}")
        if state in found or (found and not state) or "" in found:
            raise typer.BadParameter("give one number for all states, or each state once")
        found[state] = number
    return found.get("", found or None)


def _check_seconds(given: list[str] | None) -> list[str] | None:
    """Refuse a wrong value where the message names the option.

    It returns what was given: typer makes a list of what a callback of a repeatable option returns.
    """
    seconds_by_state(given)
    return given


PYTHON_ONLY = {"retry_strategy", "hooks", "lifespan", "on_startup", "on_shutdown"}
"""Settings that are functions or objects, which no option can give."""


def parse_queues(given: Sequence[str]) -> list[str] | dict[str, int]:
    """Return the names of the ``--queue`` options, or the slots by name: ``web=8``.

    A name with ``=`` needs slots: ``a=b`` is more likely a wrong number than a name.

    :raises InvalidSettingError: only some of them have slots, one is given twice, or what follows
        ``=`` is no number.
    """
    found = [re.fullmatch(r"(.*)=(\d+)", queue) for queue in given]
    for queue, match in zip(given, found, strict=True):
        if match is None and "=" in queue:
            name, _, number = queue.rpartition("=")
            raise InvalidSettingError(
                f"the slots of queue {name!r} must be a whole number ≥ 1, not {number!r}; "
                f"a name with = needs slots, as in {queue}=4"
            )
    if not any(found):
        return list(given)
    slots: dict[str, int] = {}
    for queue, match in zip(given, found, strict=True):
        if match is None:
            raise InvalidSettingError(
                f"give slots to every queue or to none: --queue {queue} has none, as in {queue}=4"
            )
        name, number = match.groups()
        if name in slots:
            raise InvalidSettingError(f"the slots of queue {name!r} are given twice")
        slots[name] = int(number)
    return slots


def takes_worker_settings(command: F) -> F:
    """Replace a command's ``**settings`` by an option for each of a worker's settings.

    Names, types, defaults and help come from `WorkerSettings` and `Worker`, so a new setting is an
    option at once. Left out are the command's own parameters, and settings that are functions or
    objects. Under ``python -OO`` there are no docstrings, and so no help.
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
        if field.name in {*PYTHON_ONLY, "queues", *own}:
            continue
        own[field.name] = _option(field.name, types[field.name], meanings.get(field.name))
        parameters.append(
            inspect.Parameter(field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default)
        )
    command.__annotations__ = own
    command.__signature__ = inspect.Signature(  # type: ignore[attr-defined]  # inspect's own hook
        [parameter.replace(annotation=own[parameter.name]) for parameter in parameters]
    )
    return command


def takes_options_of(command: Callable[..., Any], *, without: Collection[str]) -> Callable[[F], F]:
    """Replace a command's ``**options`` by the options of another command, except some."""

    def replace(function: F) -> F:
        parameters = [
            parameter
            for name, parameter in inspect.signature(command).parameters.items()
            if name not in without
        ]
        function.__annotations__ = {each.name: each.annotation for each in parameters}
        function.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect's own hook
        return function

    return replace


def _option(name: str, kind: object, meaning: str | None) -> object:
    panel = "The worker's settings, times in seconds"
    if name not in BY_STATE:
        return Annotated[kind, typer.Option(help=meaning, rich_help_panel=panel)]
    return Annotated[
        list[str] | None,
        typer.Option(
            help=BY_STATE[name],
            rich_help_panel=panel,
            callback=_check_seconds,
            metavar="[STATE=]SECONDS",
        ),
    ]


def passed(context: typer.Context, values: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of a command's values that the caller passed; the others are defaults."""
    sources = {name: context.get_parameter_source(name) for name in values}
    return {
        name: seconds_by_state(values[name]) if name in BY_STATE else values[name]
        for name, source in sources.items()
        if source is not None and source.name != "DEFAULT"
    }


def _meanings() -> dict[str, str]:
    """Return the text of each ``:param`` in the docstring of `Worker`, by its name."""
    said = re.findall(
        r":param (\w+): (.*?)(?=\n *:(?:param|raises)|\Z)", Worker.__doc__ or "", re.DOTALL
    )
    plain = {name: " ".join(text.replace("`", "").split()) for name, text in said}
    return {name: text[:1].upper() + text[1:] for name, text in plain.items()}
