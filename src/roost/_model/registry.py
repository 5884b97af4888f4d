"""Tasks: the names by which jobs find their handlers, and the defaults declared with them."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any, Literal, TypeAlias, TypeVar, get_type_hints

import attrs
from pydantic import BaseModel

from roost._model.cron import CronEntry, Misfire, Overlap
from roost._model.job import (
    DEFAULT_MAX_ATTEMPTS,
    DEFAULT_PRIORITY,
    DEFAULT_QUEUE,
    Job,
    JobInsert,
    is_default,
)
from roost._model.limits import check_limits
from roost._model.schedule import Schedule
from roost._model.validate import check_job_defaults, check_name
from roost.exceptions import DuplicateTaskError, InvalidSettingError, UnknownTaskError

F = TypeVar("F", bound=Callable[..., Any])
RunIn: TypeAlias = Literal["thread", "process"]


@attrs.frozen
class TaskDefaults:
    """Per-task enqueue defaults declared on ``@job(...)``.

    The first five (``queue`` … ``timeout_seconds``) are merged into ``enqueue`` calls; explicit
    keywords always win. The throttling fields (``rate_per_minute``, ``max_concurrency``) are
    enforced by the claim, over the whole fleet.
    """

    queue: str | None = None
    priority: int | None = None
    max_attempts: int | None = None
    tags: tuple[str, ...] | None = None
    timeout_seconds: int | None = None
    rate_per_minute: int | None = None
    max_concurrency: int | None = None

    def __attrs_post_init__(self) -> None:
        check_job_defaults(
            queue=self.queue,
            priority=self.priority,
            max_attempts=self.max_attempts,
            tags=self.tags,
            timeout_seconds=self.timeout_seconds,
        )
        check_limits(self.rate_per_minute, self.max_concurrency)


@attrs.frozen
class Handler:
    """A registered task: its function and what was declared with it.

    :param run_in: where a plain function runs.
    :param job_parameter: the function's parameter that is annotated with `Job`.
    """

    name: str
    func: Callable[..., Any]
    args_model: type[BaseModel] | None
    defaults: TaskDefaults
    is_async: bool
    run_in: RunIn = "thread"
    job_parameter: str | None = None


class _TakenName(str):
    """The name of a cron entry that nobody named: its task's."""

    __slots__ = ()


class HandlerRegistry:
    """Task names and their handlers.

    ``@job`` fills a default one that clients and workers share; make your own to keep two
    applications, or two tests, apart.
    """

    def __init__(self) -> None:
        self._handlers: dict[str, Handler] = {}
        self._names: dict[int, str] = {}
        self._cron: dict[str, CronEntry] = {}
        # Tasks that @cron registered on the way; @job on the same function takes their place.
        self._provisional: set[str] = set()

    def register(
        self,
        name: str,
        func: Callable[..., Any],
        *,
        args_model: type[BaseModel] | None = None,
        defaults: TaskDefaults | None = None,
        run_in: RunIn = "thread",
    ) -> None:
        """Make ``func`` the handler of the task ``name``.

        Registering the same function again (a module that is imported twice or reloaded) replaces
        what was declared.

        :param args_model: a pydantic model that validates the job's args when the handler is
            called.
        :param run_in: see `job`.
        :raises InvalidSettingError: the name is empty or unusable, or ``func`` is not callable or
            can't run in a process.
        :raises DuplicateTaskError: another function has that name.
        """
        check_name("task", name, error=InvalidSettingError)
        if not callable(func):
            raise InvalidSettingError(f"the handler of {name!r} is not callable: {func!r}")
        is_async = _is_async(func)
        _check_run_in(name, func, run_in, is_async=is_async)
        known = self._handlers.get(name)
        if known is not None and _origin(known.func) != _origin(func):
            raise DuplicateTaskError(
                f"task {name!r} is already handled by {_origin(known.func)[1]}; "
                "give one of the two another name"
            )
        self._rename_provisional(self._names.get(id(func)), name)
        if known is not None and known.func is not func:
            # Its number may be given to another function once it is gone.
            self._names.pop(id(known.func), None)
        self._handlers[name] = Handler(
            name=name,
            func=func,
            args_model=args_model,
            defaults=defaults or TaskDefaults(),
            is_async=is_async,
            run_in=run_in,
            job_parameter=_job_parameter(func),
        )
        self._provisional.discard(name)
        self._names[id(func)] = name

    def add_cron(self, entry: CronEntry, func: Callable[..., Any]) -> None:
        """Let ``func`` be enqueued as ``entry`` says; it becomes a task unless it is one.

        :raises DuplicateTaskError: another entry has that name. The same function of a module that
            is imported twice or reloaded replaces its own.
        """
        task = self._names.get(id(func))
        self._check_cron_name(entry.name, func, attrs.evolve(entry, task=task or entry.task))
        if task is None:
            self.register(entry.task, func)
            self._provisional.add(entry.task)
            task = entry.task
        self._cron[entry.name] = attrs.evolve(entry, task=task)

    def _check_cron_name(self, name: str, func: Callable[..., Any], entry: CronEntry) -> None:
        known = self._cron.get(name)
        if known is None or known == entry:
            return
        before = self._handlers[known.task].func
        if before is func or _origin(before) != _origin(func):
            raise DuplicateTaskError(
                f"{_origin(before)[1]} has the cron entry {name!r} already; give one of the two "
                "another name"
            )

    @property
    def cron_entries(self) -> tuple[CronEntry, ...]:
        """The cron entries, in the order of their declaration."""
        return tuple(self._cron.values())

    def _rename_provisional(self, old: str | None, new: str) -> None:
        """Let the task that @cron registered be ``new``, and so the entry that is named by it."""
        if old is None or old == new or old not in self._provisional:
            return
        func = self._handlers[old].func
        for entry in self.cron_entries:
            if entry.task != old:
                continue
            renamed = attrs.evolve(entry, task=new)
            if isinstance(entry.name, _TakenName):
                renamed = attrs.evolve(renamed, name=_TakenName(new))
                self._check_cron_name(new, func, renamed)
                del self._cron[entry.name]
            self._cron[renamed.name] = renamed
        self._provisional.discard(old)
        del self._handlers[old]

    def get(self, name: str) -> Handler:
        """Return the handler of ``name``.

        :raises UnknownTaskError: none is registered.
        """
        try:
            return self._handlers[name]
        except KeyError:
            raise UnknownTaskError(f"no handler is registered for task {name!r}") from None

    def find_name(self, func: Callable[..., Any]) -> str | None:
        """Return the task name of a function, or ``None``."""
        return self._names.get(id(func))

    def name_of(self, func: Callable[..., Any]) -> str:
        """Return the task name of a registered function.

        :raises UnknownTaskError: it is not registered here.
        """
        try:
            return self._names[id(func)]
        except KeyError:
            raise UnknownTaskError(
                f"{_origin(func)[1]} is not a task of this registry; decorate it with @job(...)"
            ) from None

    def __contains__(self, name: object) -> bool:
        return name in self._handlers

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)


default_registry = HandlerRegistry()
"""What ``@job`` fills and clients and workers use unless told otherwise."""


def with_defaults(job: JobInsert, registry: HandlerRegistry) -> JobInsert:
    """Return ``job`` with the task's declared defaults where the caller passed nothing.

    A task that isn't registered here has none: a producer needs no handlers.
    """
    if job.task not in registry:
        return job
    defaults = registry.get(job.task).defaults
    changes: dict[str, Any] = {}
    for name in ("queue", "priority", "max_attempts"):
        declared = getattr(defaults, name)
        if declared is not None and is_default(getattr(job, name)):
            changes[name] = declared
    if job.tags is None and defaults.tags is not None:
        changes["tags"] = list(defaults.tags)
    if job.timeout_seconds is None:
        changes["timeout_seconds"] = defaults.timeout_seconds
    return attrs.evolve(job, **changes)


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
    annotated with `Job` gets the running job.

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
    :raises InvalidSettingError: a parameter is out of its range.
    :raises DuplicateTaskError: another function has that name.
    """
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
        target = default_registry if registry is None else registry
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
    :param overlap: ``"skip"`` fires nothing while the entry's last job has not ended.
    :raises InvalidSettingError: a value is not valid; the message names the field.
    :raises DuplicateTaskError: another function has an entry of that name.
    """

    def register(func: F) -> F:
        target = default_registry if handler_registry is None else handler_registry
        task = target.find_name(func) or getattr(func, "__name__", name)
        if task is None:
            raise InvalidSettingError(f"{func!r} has no name of its own; pass one to @cron")
        entry = CronEntry(
            _TakenName(task) if name is None else name,
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

    # Bad expressions and zones are refused where they are written, before there is a function.
    Schedule(expression, timezone)
    return register


def _is_async(func: Callable[..., Any]) -> bool:
    while isinstance(func, functools.partial):
        func = func.func
    return inspect.iscoroutinefunction(func) or inspect.iscoroutinefunction(
        getattr(func, "__call__", None)  # noqa: B004  (asks what a call would return, not whether)
    )


def _check_run_in(name: str, func: Callable[..., Any], run_in: object, *, is_async: bool) -> None:
    if run_in not in ("thread", "process"):
        raise InvalidSettingError(f'run_in must be "thread" or "process", not {run_in!r}')
    if run_in == "thread":
        return
    if is_async:
        raise InvalidSettingError(f"task {name!r} is async: it can't run in a process")
    qualname = getattr(func, "__qualname__", "<")
    if "<" in qualname:
        raise InvalidSettingError(
            f"task {name!r} can't run in a process: only a function at the top of a module can be "
            "found from there"
        )


def _job_parameter(func: Callable[..., Any]) -> str | None:
    """Return the parameter that is annotated with `Job`, if there is one."""
    try:
        hints = get_type_hints(func)
    except Exception:  # noqa: BLE001  (annotations may name what exists for type checkers only)
        hints = dict(getattr(func, "__annotations__", {}))
    for name, hint in hints.items():
        if name != "return" and hint in (Job, "Job", "roost.Job"):
            return name
    return None


def _origin(func: Callable[..., Any]) -> tuple[str, str]:
    """Where a function was written: the same for both copies of a module that is imported twice."""
    while isinstance(func, functools.partial):
        func = func.func
    code = getattr(inspect.unwrap(func), "__code__", None)
    name = getattr(func, "__qualname__", repr(func))
    return (code.co_filename if code else repr(func)), name
