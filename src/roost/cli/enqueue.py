"""``roost enqueue``: insert a job, and wait for its end if asked."""

from __future__ import annotations

import json
import sys
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer

from roost import InvalidSettingError, JobState
from roost.cli.client import CommandClient
from roost.cli.modules import OptionalModules, registry_of
from roost.cli.options import Dsn
from roost.cli.output import AsJson, as_plain, cell, examples, print_error, show_done
from roost.cli.times import parse_duration, parse_time

EPILOG = examples(
    """roost enqueue send_email --args '{"user_id": 1}'""",
    "roost enqueue report -m shop.jobs --in 5m --queue reports",
    "roost enqueue sync --args @sync.json --wait --timeout 1m",
)


class OnConflict(StrEnum):
    """What to do if another job has the unique key."""

    RAISE = "raise"
    RETURN = "return"
    REPLACE = "replace"


def enqueue(
    task: Annotated[str, typer.Argument(help="The registered name of the task.", metavar="TASK")],
    *,
    args: Annotated[
        str,
        typer.Option(
            help="The handler's keyword arguments, as a JSON object; @FILE reads it from a file, "
            "and - from the input.",
            metavar="JSON",
        ),
    ] = "{}",
    queue: Annotated[
        str | None, typer.Option("--queue", "-q", help="The queue that it waits in.")
    ] = None,
    priority: Annotated[
        int | None, typer.Option(help="Jobs with a smaller number run first.")
    ] = None,
    in_: Annotated[
        Any,
        typer.Option(
            "--in",
            help="Time from now before which it does not run: 90 (seconds), 5m, 1h30m or 2d.",
            parser=parse_duration,
            metavar="DURATION",
            show_default=False,
        ),
    ] = None,
    at: Annotated[
        Any,
        typer.Option(
            "--at",
            help="Time before which it does not run, in ISO 8601; in UTC unless it says otherwise.",
            parser=parse_time,
            metavar="TIME",
            show_default=False,
        ),
    ] = None,
    max_attempts: Annotated[
        int | None, typer.Option(help="Attempts after which a failed job is discarded.")
    ] = None,
    timeout_seconds: Annotated[
        int | None, typer.Option(help="Longest time of one attempt.")
    ] = None,
    unique_key: Annotated[
        str | None, typer.Option(help="A key that only one active job can have.")
    ] = None,
    on_conflict: Annotated[
        OnConflict,
        typer.Option(
            help="If another job has the key: raise exits with 1, return prints that job's id, "
            "replace changes that job if it waits."
        ),
    ] = OnConflict.RAISE,
    tag: Annotated[
        list[str] | None,
        typer.Option(help="A word to find it by. Repeat it for more.", show_default=False),
    ] = None,
    metadata: Annotated[
        str | None,
        typer.Option(
            help="A JSON object that is not handler input; @FILE or -, as for --args.",
            metavar="JSON",
            show_default=False,
        ),
    ] = None,
    depends_on: Annotated[
        list[int] | None,
        typer.Option(
            help="The id of a job that must complete first. Repeat it for more.",
            show_default=False,
        ),
    ] = None,
    wait: Annotated[
        bool, typer.Option("--wait", help="Wait until the job has ended, and print its result.")
    ] = False,
    timeout: Annotated[
        Any,
        typer.Option(
            help="The longest wait. Default: no limit.",
            parser=parse_duration,
            metavar="DURATION",
            show_default=False,
        ),
    ] = None,
    module: OptionalModules = None,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Enqueue a job.

    The defaults of `@job` apply to what is not passed: from the module of `-m`, or else as the
    task's workers have published them. With -m a task that the modules don't have is refused.

    With --wait it exits with 0 if the job has completed, and with 1 if it was discarded or
    cancelled, or has not ended within --timeout. The job goes on after a timeout.
    """
    if timeout is not None and not wait:
        raise InvalidSettingError("--timeout is for --wait: pass both")
    if in_ is not None and at is not None:
        raise InvalidSettingError("--in and --at exclude each other: pass one of them")
    if args == metadata == "-":
        raise InvalidSettingError("--args and --metadata can't both come from the input")
    registry = registry_of(module)
    if module and task not in registry:
        raise InvalidSettingError(
            f"the modules have no task {task!r}; they have {', '.join(sorted(registry))}"
        )
    options = _passed(
        queue=queue,
        priority=priority,
        schedule_in=in_,
        scheduled_at=at,
        max_attempts=max_attempts,
        timeout_seconds=timeout_seconds,
        unique_key=unique_key,
        tags=tag or None,
        depends_on=depends_on or None,
        metadata=None if metadata is None else read_object("--metadata", metadata),
    )
    with CommandClient(dsn, "enqueue", registry=registry) as client:
        job_id = client.enqueue(
            task,
            args=read_object("--args", args),
            on_conflict=on_conflict.value,
            **options,
        )
        if not wait:
            show_done(f"enqueued {task} as job {job_id}", as_json=as_json, job_id=job_id, task=task)
            return
        if not as_json:
            typer.echo(f"enqueued {task} as job {job_id}", err=True)
        _wait(client, job_id, timeout, as_json=as_json)


def _passed(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _wait(client: CommandClient, job_id: int, timeout: timedelta | None, *, as_json: bool) -> None:
    """Wait for the job's end and print its result; exit with 1 unless it has completed."""
    seconds = None if timeout is None else timeout.total_seconds()
    outcome = client.wait_for(job_id, timeout=seconds, raise_on_failure=False)
    if as_json:
        show_done(
            "",
            as_json=True,
            job_id=job_id,
            state=outcome.state,
            result=outcome.result,
            errors=outcome.errors,
        )
    elif outcome.state == JobState.COMPLETED:
        typer.echo(json.dumps(as_plain(outcome.result)))
    if outcome.state == JobState.COMPLETED:
        return
    why = f": {cell(outcome.errors[-1].get('error'))}" if outcome.errors else ""
    print_error(f"job {job_id} was {outcome.state}{why}")
    raise typer.Exit(1)


def read_object(option: str, text: str) -> dict[str, Any]:
    """Return the JSON object of an option: the text itself, ``@FILE``, or ``-`` for the input.

    :raises InvalidSettingError: the file can't be read, or the text is no JSON object.
    """
    where = option
    if text == "-":
        where, text = f"the input of {option}", sys.stdin.read()
    elif text.startswith("@"):
        where = f"{text[1:]} of {option}"
        try:
            text = Path(text[1:]).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise InvalidSettingError(f"can't read {where}: {error}") from error
    try:
        found = json.loads(text)
    except ValueError as error:
        raise InvalidSettingError(f"{where} is not JSON: {error}") from error
    except RecursionError as error:
        raise InvalidSettingError(f"{where} is nested too deeply") from error
    if not isinstance(found, dict):
        raise InvalidSettingError(f"{where} must be a JSON object, not {text.strip()[:80]}")
    return found
