"""The options that say which jobs a command means, for `JobFilter`."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Annotated, Any, TypeVar, cast, get_type_hints

import typer

from roost import InvalidSettingError, JobFilter, JobState
from roost.cli.client import CommandClient
from roost.cli.times import parse_past

F = TypeVar("F", bound=Callable[..., Any])

PANEL = "Which jobs (a job must fit all of them)"


def _option(*names: str, help: str, metavar: str | None = None) -> Any:  # noqa: A002  (typer's)
    return typer.Option(
        *names, help=help, metavar=metavar, rich_help_panel=PANEL, show_default=False
    )


def _time(*names: str, help: str) -> Any:  # noqa: A002
    return typer.Option(
        *names,
        help=help,
        rich_help_panel=PANEL,
        show_default=False,
        parser=parse_past,
        metavar="TIME|AGO",
    )


_STATES = ", ".join(state.value for state in JobState)
OPTIONS: dict[str, Any] = {
    "state": Annotated[
        list[JobState] | None,
        _option(help=f"One of {_STATES}; repeatable.", metavar="STATE"),
    ],
    "queue": Annotated[
        list[str] | None, _option("-q", "--queue", help="Its queue; repeatable.", metavar="NAME")
    ],
    "task": Annotated[list[str] | None, _option(help="Its task; repeatable.", metavar="NAME")],
    "tag": Annotated[list[str] | None, _option(help="One of its tags; repeatable.", metavar="TAG")],
    "unique_key": Annotated[
        str | None, _option(help="The key that it was enqueued with.", metavar="KEY")
    ],
    "worker": Annotated[
        int | None,
        _option(help="The worker that runs it, or ran its last attempt.", metavar="ID"),
    ],
    "error": Annotated[
        str | None,
        _option(
            help="A text in the `error` of one of its error records, upper or lower case.",
            metavar="TEXT",
        ),
    ],
    "inserted_after": Annotated[
        Any,
        _time(
            help="Enqueued at that time or later: a time in ISO 8601, in UTC unless it says "
            "otherwise; or a duration, such as 1h for an hour ago by the database's clock."
        ),
    ],
    "inserted_before": Annotated[Any, _time(help="Enqueued before that time.")],
    "finished_after": Annotated[Any, _time(help="Ended at that time or later.")],
    "finished_before": Annotated[Any, _time(help="Ended before that time.")],
    "older": Annotated[Any, _time(help="Enqueued before that time: --older 1h.")],
}
"""A command's parameter for each keyword of `JobFilter` but ``ids``, and ``older``."""

KEYWORDS = {
    "state": "states",
    "queue": "queues",
    "task": "tasks",
    "tag": "tags",
    "worker": "worker_id",
    "error": "error_contains",
}
"""Keywords of `JobFilter` that have another name than their option."""


def takes_job_filter(command: F) -> F:
    """Replace a command's ``**where`` by the options that say which jobs it means."""
    shown = inspect.signature(command)
    own = get_type_hints(command, include_extras=True)
    own.pop("return", None)
    own.pop("where")
    parameters = [
        shown.parameters[name].replace(annotation=own[name], kind=inspect.Parameter.KEYWORD_ONLY)
        for name in own
    ]
    parameters += [
        inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=kind)
        for name, kind in OPTIONS.items()
    ]
    command.__annotations__ = own | OPTIONS
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # its hook
    return command


def has_filter(where: dict[str, Any]) -> bool:
    """Return whether one of the options was passed."""
    return any(value not in (None, []) for value in where.values())


def job_filter(client: CommandClient, where: dict[str, Any], ids: list[int] | None) -> JobFilter:
    """Return the filter of the options.

    :param client: asked for the database's time if a duration was passed.
    :raises InvalidSettingError: ``--older`` and ``--inserted-before`` are passed.
    """
    given = {name: value for name, value in where.items() if value not in (None, [])}
    if "older" in given:
        if "inserted_before" in given:
            raise InvalidSettingError("--older is --inserted-before: pass one of them")
        given["inserted_before"] = given.pop("older")
    found: dict[str, Any] = {"ids": ids} if ids else {}
    now: datetime | None = None
    for name, value in given.items():
        if isinstance(value, timedelta):
            now = now or client.database_time()
            found[name] = _before(now, value)
        else:
            found[KEYWORDS.get(name, name)] = value
    return cast("JobFilter", found)


def _before(now: datetime, ago: timedelta) -> datetime:
    try:
        return now - ago
    except OverflowError:
        raise InvalidSettingError(f"{ago} ago is before the calendar begins") from None
