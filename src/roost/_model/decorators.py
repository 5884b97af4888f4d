"""``@job`` and ``@cron``: register a function and return it untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from roost._model.backoff import BackoffStrategy, check_strategy
from roost._model.cron import CronEntry, MakeArgs, Misfire, Overlap
from roost._model.failures import ExceptionClasses, failure_rules
from roost._model.functions import RunIn, location
from roost._model.job import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE, TaskDefaults
from roost._model.limits import LimitBy
from roost._model.registry import DerivedName, HandlerRegistry, resolve_registry
from roost._model.schedule import Schedule
from roost.exceptions import InvalidSettingError

F = TypeVar("F", bound=Callable[..., Any])


def job(
    name: str,
    *,
    args_model: type[BaseModel] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    max_attempts: int | None = None,
    tags: list[str] | tuple[str, ...] | None = None,
    timeout_seconds: int | None = None,
    rate_per_minute: int | None = None,
    max_concurrency: int | None = None,
    limit_by: LimitBy | None = None,
    run_in: RunIn = "thread",
    retry_on: ExceptionClasses | None = None,
    discard_on: ExceptionClasses | None = None,
    retry_strategy: BackoffStrategy | None = None,
    registry: HandlerRegistry | None = None,
) -> Callable[[F], F]:
    """Register the decorated function as the handler for the task ``name``.

    For example:

        @job("send_email", queue="mail", max_attempts=5)
        async def send_email(user_id: int) -> None:
            print("sending to", user_id)

    The function is returned untouched, so tests can call it directly. A coroutine function runs in
    the worker's event loop, a plain function in a thread or process of the worker. It is called
    with the job's args as keywords. A parameter annotated with `Job`, or ``Job | None``, gets the
    running job.

    ``queue``, ``priority``, ``max_attempts``, ``tags`` and ``timeout_seconds`` apply to every
    enqueue of this task that doesn't pass its own.

    ``retry_on`` and ``discard_on`` name exceptions with their subclasses, as ``except`` does. If
    both match, the class that is nearer to the exception's own decides. A timeout counts as a
    `TimeoutError`. Of an exception group each exception counts: the job is retried if one of them
    is to be retried. `CancelJob`, `DiscardJob`, `RetryJob` and `SnoozeJob` go before these rules.

    :param name: the name stored in each job. Keep it stable: jobs outlive deployments.
    :param args_model: a pydantic model that validates the args when the handler is called; the
        handler then gets the model's typed values.
    :param queue: the queue that the task's jobs wait in.
    :param priority: jobs with a smaller number run first.
    :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
    :param tags: words to find the jobs by.
    :param timeout_seconds: longest time of one attempt, whole seconds ≥ 1.
    :param rate_per_minute: most starts in any 60 s, over all workers, ≥ 1.
    :param max_concurrency: most jobs of this task that run at once, over all workers, ≥ 1.
    :param limit_by: the field of args by whose values the limits apply: to each value by itself.
        ``"customer.id"`` is a nested field. Or a function that gets the args as a dict; it is
        called at each enqueue. Default: the limits apply to all jobs of the task together.
    :param run_in: ``"thread"``; or ``"process"`` for a function at the top of a module that needs a
        CPU of its own, or that a timeout or cancel must end at once by killing the process.
    :param retry_on: an exception class, or several: only a job that fails with one of these is
        retried, others are discarded at once; ``None``: all are retried.
    :param discard_on: exception classes of jobs that are discarded at once, without a retry.
    :param retry_strategy: returns the seconds to wait after a failed attempt, as
        ``roost.fixed(10)`` does; ``None``: the worker's strategy decides.
    :param registry: where to register; default: the shared one.
    :raises InvalidSettingError: a parameter is out of its range, the decorated object is not a
        function that can be called with keywords, or ``args_model`` does not fit it.
    :raises DuplicateTaskError: another function has that name; the message says where it is.
    """
    _check_has_parentheses("job", name, '"a name"')
    target = resolve_registry(registry)
    # At this line, before the function is decorated.
    failure_rules(name, retry_on, discard_on)
    check_strategy("retry_strategy", retry_strategy)
    defaults = TaskDefaults(
        queue=queue,
        priority=priority,
        max_attempts=max_attempts,
        # Only a list is converted: a str would become its characters, and the check refuses it.
        tags=tuple(tags) if isinstance(tags, list) else tags,
        timeout_seconds=timeout_seconds,
        rate_per_minute=rate_per_minute,
        max_concurrency=max_concurrency,
        limit_by=limit_by,
    )

    def register(func: F) -> F:
        target.register(
            name,
            func,
            args_model=args_model,
            defaults=defaults,
            run_in=run_in,
            retry_on=retry_on,
            discard_on=discard_on,
            retry_strategy=retry_strategy,
        )
        return func

    return register


def cron(
    expression: str,
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    args: dict[str, Any] | MakeArgs | None = None,
    priority: int = DEFAULT_PRIORITY,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    timezone: str | None = None,
    handler_registry: HandlerRegistry | None = None,
    misfire: Misfire = "last",
    jitter: float = 0.0,
    overlap: Overlap = "allow",
    run_on_start: bool = False,
) -> Callable[[F], F]:
    """Register a function as a cron handler under ``expression``.

    For example:

        @cron("0 7 * * mon-fri", timezone="Europe/Berlin")
        async def morning_report() -> None:
            print("good morning")

    ``timezone`` accepts an IANA name (``"America/Los_Angeles"``, ``"Europe/Berlin"``). Defaults to
    UTC. The cron expression is then interpreted in that local timezone, including DST.

    The function is returned untouched. ``@job`` on the same function, above or below, keeps all
    that it declares; what is not passed here comes from its defaults.

    Every worker whose registry has the entry may fire it, and for each tick exactly one does. The
    first deployment fires no past tick.

    :param expression: five fields, or six with seconds last; or ``@daily`` and similar names.
    :param name: the entry's name; default: the task's name, or the function's.
    :param queue: the queue that its jobs wait in.
    :param args: the handler's keyword arguments; or a plain function that returns them for a tick
        (an aware datetime in the entry's time zone). The worker that fires calls it in a thread.
    :param priority: jobs with a smaller number run first.
    :param max_attempts: attempts after which a failed job is discarded, ≥ 1.
    :param handler_registry: where to register; default: the shared one.
    :param misfire: for ticks that were due while no worker ran: ``"skip"`` them, fire the
        ``"last"`` one, or ``"all"``, the newest hundred at most.
    :param jitter: longest random delay of a job after its tick, in seconds.
    :param overlap: ``"skip"`` fires nothing while the last tick's job has not ended, and never two
        jobs at once.
    :param run_on_start: whether one more job is enqueued when the first worker that has the entry
        starts: once for all workers, and again after all of them have stopped.
    :raises InvalidSettingError: a value is not valid, or the handler has a parameter without a
        default that ``args`` has no value for; the message names it.
    :raises DuplicateTaskError: another entry has that name; a second entry of one function needs a
        ``name``.
    """

    def register(func: F) -> F:
        task = target.find_name(func) or getattr(func, "__name__", name)
        if task is None:
            raise InvalidSettingError(f"{func!r} has no __name__; pass name= to @cron")
        entry = CronEntry(
            DerivedName(task) if name is None else name,
            expression,
            task,
            {} if args is None else dict(args) if isinstance(args, dict) else args,
            queue,
            priority,
            max_attempts,
            timezone,
            misfire=misfire,
            jitter=jitter,
            overlap=overlap,
            run_on_start=run_on_start,
        )
        target.add_cron(entry, func)
        return func

    _check_has_parentheses("cron", expression, '"* * * * *"')
    target = resolve_registry(handler_registry)
    # Refuse a bad expression or time zone at this line, before the function is decorated.
    Schedule(expression, timezone)
    return register


def _check_has_parentheses(decorator: str, first: object, example: str) -> None:
    """Refuse ``@job`` and ``@cron`` without parentheses, which pass the function as ``first``."""
    if callable(first):
        raise InvalidSettingError(
            f"write @{decorator}({example}) with parentheses above {location(first)}"
        )
