"""The calls of the verbs that change queues, limits and cron entries, or requeue discarded jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import attrs
from pydantic import BaseModel

from roost._client.calls import BULK_TIMEOUT, DatabaseCall, Task, name_of
from roost._model.codec import decode
from roost._model.cron import CronEntry
from roost._model.encoding import encode_jobs
from roost._model.handler_checks import check_cron_args
from roost._model.job import is_default
from roost._model.job_parameter import injected_parameters
from roost._model.limits import check_limits
from roost._model.registry import HandlerRegistry, with_defaults
from roost._model.validate import check_name
from roost._ops import control, cron, limits
from roost._worker.cron_declarer import STALE_AFTER
from roost.exceptions import InvalidSettingError, PauseNotConfirmedError

PAUSE_TIMEOUT = 10.0
"""Seconds that `pause_queue` waits for the workers to confirm; usually they take milliseconds."""
FIRST_PAUSE_DELAY = 0.005
"""Seconds until `pause_queue` asks again whether all have confirmed; it doubles each time."""
MAX_PAUSE_DELAY = 0.1
"""Seconds; the longest such delay."""


def requeue_discarded(queue: str | None, task: str | None, limit: int | None) -> DatabaseCall[int]:
    """Make discarded jobs available again, in batches."""
    for what, name in (("queue", queue), ("task", task)):
        if name is not None:
            check_name(what, name)
    operation = control.requeue_discarded(queue=queue, task=task, limit=limit)
    return DatabaseCall(operation, timeout=BULK_TIMEOUT)


def pause_queue(queue: str) -> DatabaseCall[None]:
    """Pause a queue."""
    check_name("queue", queue)
    return DatabaseCall(control.pause_queue(queue))


def unconfirmed_workers(queue: str) -> DatabaseCall[dict[str, float]]:
    """Read which workers have not confirmed the pause of a queue."""
    return DatabaseCall(control.unconfirmed_workers(queue))


def pause_not_confirmed(
    queue: str, workers: Mapping[str, float], timeout: float
) -> PauseNotConfirmedError:
    """Return the error that names the workers that have not confirmed a pause."""
    named = ", ".join(f"{name} (last heartbeat {ago:.0f} s ago)" for name, ago in workers.items())
    return PauseNotConfirmedError(
        f"queue {queue!r} is paused, but these workers have not confirmed it within {timeout} s: "
        f"{named}",
        queue,
        list(workers),
    )


def resume_queue(queue: str) -> DatabaseCall[None]:
    """Resume a queue."""
    check_name("queue", queue)
    return DatabaseCall(control.resume_queue(queue))


def set_limit(
    task: Task,
    registry: HandlerRegistry,
    *,
    max_concurrency: int | None,
    rate_per_minute: int | None,
) -> DatabaseCall[None]:
    """Set limits of a task."""
    name = name_of(registry, task)
    check_name("task", name, InvalidSettingError)
    check_limits(rate_per_minute, max_concurrency)
    if max_concurrency is None and rate_per_minute is None:
        raise InvalidSettingError(
            "pass max_concurrency, rate_per_minute or both; clear_limit removes what was set"
        )
    return DatabaseCall(
        limits.set_limit(name, max_concurrency=max_concurrency, rate_per_minute=rate_per_minute)
    )


def clear_limit(task: Task, registry: HandlerRegistry) -> DatabaseCall[bool]:
    """Remove what was set of a task's limits."""
    name = name_of(registry, task)
    check_name("task", name, InvalidSettingError)
    return DatabaseCall(limits.clear_limit(name))


def pause_cron(name: str) -> DatabaseCall[None]:
    """Pause a cron entry."""
    return DatabaseCall(cron.pause(name))


def resume_cron(name: str) -> DatabaseCall[None]:
    """Resume a cron entry."""
    return DatabaseCall(cron.resume(name), in_transaction=True)


def run_cron_now(
    registry: HandlerRegistry, name: str, *, carrier: Mapping[str, str]
) -> DatabaseCall[int]:
    """Enqueue a cron entry's job."""
    return DatabaseCall(cron.run_now(name, registry.cron_entry(name), carrier=carrier))


def add_cron(
    registry: HandlerRegistry,
    name: str | CronEntry,
    expression: str | None,
    task: str | Callable[..., Any] | None,
    *,
    args: dict[str, Any] | BaseModel | None = None,
    timezone: str | None = None,
    tags: list[str] | None = None,
    timeout_seconds: int | None = None,
    **options: Any,
) -> DatabaseCall[None]:
    """Add or replace a cron entry; every value is checked first."""
    if isinstance(name, CronEntry):
        given = {"expression": expression, "task": task, "args": args, "timezone": timezone}
        if twice := [key for key, value in (given | options).items() if _is_passed(key, value)]:
            raise InvalidSettingError(
                f"a CronEntry has all fields already; pass it without {', '.join(twice)}"
            )
        entry = name
    elif expression is None or task is None:
        raise InvalidSettingError("add_cron needs a name, an expression and a task")
    else:
        entry = CronEntry(
            name, expression, name_of(registry, task), timezone_name=timezone, **options
        )
    if callable(entry.args) or entry.run_on_start:
        raise InvalidSettingError(
            f"cron entry {entry.name!r}: only an entry of the code can have a function as args, or "
            "run_on_start"
        )
    job = attrs.evolve(entry.job(), tags=tags, timeout_seconds=timeout_seconds)
    if args is not None:
        job = attrs.evolve(job, args=args)
    job = with_defaults(job, registry)
    [record] = decode(encode_jobs([job], registry))
    handler = registry.get(job.task)
    if handler is not None:
        check_cron_args(
            entry.name,
            handler.func,
            record["args"],
            args_model=handler.args_model,
            injected=injected_parameters(handler.func),
        )
    return DatabaseCall(cron.add(entry, record))


def _is_passed(name: str, value: object) -> bool:
    """Return whether a parameter of `add_cron` that a `CronEntry` has, too, is not its default."""
    return not is_default(value) and value != _USUAL.get(name)


_USUAL = {"misfire": "last", "overlap": "allow", "jitter": 0.0}


def remove_cron(name: str) -> DatabaseCall[bool]:
    """Remove a cron entry."""
    check_name("the name of a cron entry", name, error=InvalidSettingError)
    return DatabaseCall(cron.remove(name, stale_after=STALE_AFTER))
