"""``@job`` and ``@cron``: they register a function and return it untouched."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import BaseModel

from roost._model.cron import CronEntry, Misfire, Overlap
from roost._model.functions import RunIn, location
from roost._model.job import DEFAULT_MAX_ATTEMPTS, DEFAULT_PRIORITY, DEFAULT_QUEUE, TaskDefaults
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
    run_in: RunIn = "thread",
    registry: HandlerRegistry | None = None,
) -> Callable[[F], F]:
    """Register the decorated function as the handler for the task ``name``.

    The function is returned untouched: it can still be called directly, in tests for instance. It
    may be a coroutine function, which runs in the worker's event loop, or a plain one, which runs
    in a worker thread or process. It is called with the job's args as keywords; a parameter that is
    annotated with `Job`, or ``Job | None``, gets the running job.

    ``queue``, ``priority``, ``max_attempts``, ``tags`` and ``timeout_seconds`` are the defaults of
    every enqueue of this task that doesn't pass its own.

    :param name: what is stored in the job; keep it stable, rows outlive deployments.
    :param args_model: a pydantic model that validates the args when the handler is called; the
        handler then gets the model's typed values.
    :param timeout_seconds: how long one attempt may run, whole seconds ≥ 1.
    :param rate_per_minute: at most so many starts in any 60 s, over all workers.
    :param max_concurrency: at most so many at once, over all workers.
    :param run_in: ``"thread"``, or ``"process"`` for a plain function of a module that needs a CPU
        of its own, or whose timeouts and cancels must really end it: the process is killed.
    :param registry: where to register; default: the shared one.
    :raises InvalidSettingError: a parameter is out of its range, the decorated object is no
        function that can be called with keywords, or ``args_model`` does not fit it.
    :raises DuplicateTaskError: another function has that name; the message says where it stands.
    """
    _check_has_parentheses("job", name, '"a name"')
    target = resolve_registry(registry)
    defaults = TaskDefaults(
        queue=queue,
        priority=priority,
        max_attempts=max_attempts,
        # What is no list is left for the check to refuse: a str would become its characters.
        tags=tuple(tags) if isinstance(tags, list) else tags,
        timeout_seconds=timeout_seconds,
        rate_per_minute=rate_per_minute,
        max_concurrency=max_concurrency,
    )

    def register(func: F) -> F:
        target.register(name, func, args_model=args_model, defaults=defaults, run_in=run_in)
        return func

    return register


def cron(
    expression: str,
    *,
    name: str | None = None,
    queue: str = DEFAULT_QUEUE,
    args: dict[str, Any] | None = None,
    priority: int = DEFAULT_PRIORITY,
    max_attempts: int = DEFAULT_MAX_ATTEMPTS,
    timezone: str | None = None,
    handler_registry: HandlerRegistry | None = None,
    misfire: Misfire = "last",
    jitter: float = 0.0,
    overlap: Overlap = "allow",
) -> Callable[[F], F]:
    """Register a function as a cron handler under ``expression``.

    ``timezone`` accepts an IANA name (``"America/Los_Angeles"``, ``"Europe/Berlin"``). Defaults to
    UTC. The cron expression is then interpreted in that local timezone, including DST.

    The function is returned untouched. ``@job`` on the same function, above or below, keeps all
    that it declares; what is not passed here comes from its defaults.

    Every worker whose registry has the entry may fire it and one of them does, once for each tick.
    The first deployment fires no past tick.

    :param expression: five fields, or six with seconds last; ``@daily`` and its like.
    :param name: what the entry is known by; default: the task's name, or the function's.
    :param args: the handler's keyword arguments.
    :param handler_registry: where to register; default: the shared one.
    :param misfire: for ticks that nobody was there to fire: ``"skip"``, ``"last"`` or ``"all"``.
    :param jitter: spread each job's time over so many seconds after its tick.
    :param overlap: ``"skip"`` fires nothing while the job of the last tick has not ended, and never
        two jobs at once.
    :raises InvalidSettingError: a value is not valid, or the handler has a parameter without a
        default that ``args`` has no value for; the message names it.
    :raises DuplicateTaskError: there is another entry of that name; a second entry of one function
        needs a ``name``.
    """

    def register(func: F) -> F:
        task = target.find_name(func) or getattr(func, "__name__", name)
        if task is None:
            raise InvalidSettingError(f"{func!r} has no name of its own; pass one to @cron")
        entry = CronEntry(
            DerivedName(task) if name is None else name,
            expression,
            task,
            {} if args is None else dict(args),
            queue,
            priority,
            max_attempts,
            timezone,
            misfire=misfire,
            jitter=jitter,
            overlap=overlap,
        )
        target.add_cron(entry, func)
        return func

    _check_has_parentheses("cron", expression, '"* * * * *"')
    target = resolve_registry(handler_registry)
    # Bad expressions and zones are refused where they are written, before there is a function.
    Schedule(expression, timezone)
    return register


def _check_has_parentheses(decorator: str, first: object, example: str) -> None:
    """Refuse the function that a decorator gets where its parentheses were left out."""
    if callable(first):
        raise InvalidSettingError(
            f"write @{decorator}({example}) with parentheses above {location(first)}"
        )
