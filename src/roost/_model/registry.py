"""The registry: finds the handler, the defaults and the cron entries of each task."""

from collections.abc import Callable, Iterator, Mapping
from operator import attrgetter
from typing import Any

import attrs
from pydantic import BaseModel

from roost._model.backoff import BackoffStrategy, check_strategy
from roost._model.cron import CronEntry
from roost._model.failures import (
    NO_RULES,
    ExceptionClasses,
    FailureRules,
    check_importable,
    failure_rules,
)
from roost._model.functions import (
    Run,
    RunIn,
    accepted_keywords,
    call_keywords,
    check_run_in,
    identity,
    is_async,
    is_same,
    location,
    origin,
    place,
    run_of_module,
)
from roost._model.handler_checks import check_args_model, check_cron_args, check_handler
from roost._model.job import JobInsert, TaskDefaults, is_default
from roost._model.job_parameter import (
    injected_parameters,
    job_parameter,
    state_kinds,
    state_parameter,
)
from roost._model.lazy import check_not_generator
from roost._model.limits import check_limit_field
from roost._model.validate import DEFAULT_MAX_ARGS_BYTES, check_name
from roost.exceptions import DuplicateTaskError, InvalidSettingError, UnknownTaskError


@attrs.frozen
class Handler:
    """A registered task: its function and its declarations.

    :param run_in: where a plain function runs.
    :param job_parameter: the function's parameter that is annotated with `Job`.
    :param state_parameter: the one that is annotated with `State`.
    :param state_kinds: the classes that this annotation accepts.
    :param accepted: the keywords that the function accepts; ``None``: any.
    :param run: the execution of the module that defined the function.
    :param declared: ``defaults`` as `with_defaults` merges them.
    :param required: the keywords that a call must pass.
    :param callable_with: all that it may pass; ``None``: any. Other than ``accepted`` if a
        decorator takes other arguments than the decorated function.
    :param rules: which of its errors are retried.
    :param retry_strategy: how long its failed jobs wait; ``None``: the worker's strategy decides.
    """

    name: str
    func: Callable[..., Any]
    args_model: type[BaseModel] | None
    defaults: TaskDefaults
    is_async: bool
    run_in: RunIn = "thread"
    job_parameter: str | None = None
    state_parameter: str | None = None
    state_kinds: tuple[type, ...] = ()
    accepted: frozenset[str] | None = None
    run: Run = (None, None)
    declared: tuple[tuple[str, object, bool], ...] = ()
    required: frozenset[str] = frozenset()
    callable_with: frozenset[str] | None = None
    rules: FailureRules = NO_RULES
    retry_strategy: BackoffStrategy | None = None

    def can_take(self, args: Mapping[str, object]) -> bool:
        """Say whether the function can be called with these keywords."""
        for name in self.required:
            if name not in args:
                return False
        return self.callable_with is None or self.callable_with.issuperset(args)


class DerivedName(str):
    """The name of a cron entry without one of its own: its task's name."""

    __slots__ = ()


class HandlerRegistry:
    """Task names and their handlers.

    ``@job`` fills a shared default registry that clients and workers use. Create your own to
    separate two applications, or two tests.

    :param max_args_bytes: longest JSON text, in bytes, of a job's args and metadata together when a
        client with this registry enqueues it; default: 16 MiB. It can also be set as an attribute,
        on the shared registry too.
    """

    def __init__(self, *, max_args_bytes: int = DEFAULT_MAX_ARGS_BYTES) -> None:
        self.max_args_bytes = max_args_bytes
        self._handlers: dict[str, Handler] = {}
        self._names: dict[tuple[int, int], str] = {}
        self._cron: dict[str, CronEntry] = {}
        self._cron_functions: dict[str, Callable[..., Any]] = {}
        self._cron_runs: dict[str, Run] = {}
        # Tasks that @cron registered; @job on the same function replaces them.
        self._provisional: set[str] = set()

    def register(
        self,
        name: str,
        func: Callable[..., Any],
        *,
        args_model: type[BaseModel] | None = None,
        defaults: TaskDefaults | None = None,
        run_in: RunIn = "thread",
        retry_on: ExceptionClasses | None = None,
        discard_on: ExceptionClasses | None = None,
        retry_strategy: BackoffStrategy | None = None,
    ) -> None:
        """Make ``func`` the handler of the task ``name``.

        Registering the same function again, when its module is imported twice or reloaded, replaces
        its declarations. Two functions are the same if they have the same file and qualified name;
        within one execution of a module their code must be the same, too.

        :param name: the name stored in each job.
        :param func: the handler.
        :param args_model: a pydantic model that validates the job's args when the handler is
            called.
        :param defaults: what an enqueue of the task does not pass.
        :param run_in: see `job`.
        :param retry_on: see `job`.
        :param discard_on: see `job`.
        :param retry_strategy: see `job`.
        :raises InvalidSettingError: the name can't be stored; or ``func`` is a class, can't be
            called by keywords or can't run in a process; or ``args_model`` is not a model or does
            not fit the parameters; or another parameter is not valid.
        :raises DuplicateTaskError: another function has that name.
        """
        check_name("task", name, error=InvalidSettingError)
        check_handler(name, func)
        check_not_generator(name, func)
        injected = injected_parameters(func)
        check_args_model(name, func, args_model, injected=injected)
        defaults = TaskDefaults() if defaults is None else defaults
        if not isinstance(defaults, TaskDefaults):
            raise InvalidSettingError(f"defaults must be TaskDefaults, not {defaults!r}")
        accepted = accepted_keywords(func)
        check_limit_field(name, defaults.limit_by, accepted, has_model=args_model is not None)
        awaited = is_async(func)
        check_run_in(name, func, run_in, awaited=awaited, state_parameter=state_parameter(func))
        rules = failure_rules(name, retry_on, discard_on)
        if run_in == "process":
            check_importable(name, rules)
        check_strategy("retry_strategy", retry_strategy)
        known = self._handlers.get(name)
        if known is not None and not is_same(known.func, func, run=known.run):
            raise DuplicateTaskError(
                f"task {name!r} is already handled by {location(known.func)}; give it or "
                f"{location(func)} another name"
            )
        if args_model is not None:
            for entry in self._cron.values():
                if self._cron_functions[entry.name] is func:
                    _check_args(entry, func, args_model=args_model, injected=injected)
        self._rename_provisional(self._names.get(identity(func)), name)
        required, callable_with = call_keywords(func, given=injected)
        if known is not None and known.func is not func:
            # Python may give its id() to another function later.
            self._names.pop(identity(known.func), None)
        self._handlers[name] = Handler(
            name=name,
            func=func,
            args_model=args_model,
            defaults=defaults,
            is_async=awaited,
            run_in=run_in,
            job_parameter=job_parameter(func),
            state_parameter=state_parameter(func),
            state_kinds=state_kinds(func),
            accepted=accepted,
            run=run_of_module(func),
            declared=_declared(defaults),
            required=required,
            callable_with=callable_with,
            rules=rules,
            retry_strategy=retry_strategy,
        )
        self._provisional.discard(name)
        self._names[identity(func)] = name

    def add_cron(self, entry: CronEntry, func: Callable[..., Any]) -> None:
        """Add a cron entry for ``func``, and register ``func`` as a task if it is none.

        :raises InvalidSettingError: ``func`` can't be called with the entry's args.
        :raises DuplicateTaskError: another entry has that name. A function whose module is imported
            twice or reloaded replaces its own entry.
        """
        task = self._names.get(identity(func))
        handler = None if task is None else self._handlers[task]
        _check_args(
            entry,
            func,
            args_model=None if handler is None else handler.args_model,
            injected=injected_parameters(func),
        )
        self._check_cron_name(entry.name, func, attrs.evolve(entry, task=task or entry.task))
        if task is None:
            self.register(entry.task, func)
            self._provisional.add(entry.task)
            task = entry.task
        self._put_cron(attrs.evolve(entry, task=task), func)

    def include(self, other: "HandlerRegistry") -> None:
        """Register the tasks and cron entries of another registry here, too.

        :raises DuplicateTaskError: another function has the name of one of them.
        """
        for handler in map(other.handler_of, other):
            self.register(
                handler.name,
                handler.func,
                args_model=handler.args_model,
                defaults=handler.defaults,
                run_in=handler.run_in,
                retry_on=handler.rules.retry_on,
                discard_on=handler.rules.discard_on or None,
                retry_strategy=handler.retry_strategy,
            )
        for entry in other.cron_entries:
            self.add_cron(entry, other.handler_of(entry.task).func)

    def _check_cron_name(self, name: str, func: Callable[..., Any], entry: CronEntry) -> None:
        known = self._cron.get(name)
        if known is None or known == entry:
            return
        before = self._cron_functions[name]
        if before is func or not is_same(before, func, run=self._cron_runs[name]):
            raise DuplicateTaskError(
                f"{origin(before)[1]} has the cron entry {name!r} already, at {place(before)}; "
                f"give it or {location(func)} another name"
            )

    def _put_cron(self, entry: CronEntry, func: Callable[..., Any]) -> None:
        self._cron[entry.name] = entry
        self._cron_functions[entry.name] = func
        self._cron_runs[entry.name] = run_of_module(func)

    @property
    def cron_entries(self) -> tuple[CronEntry, ...]:
        """The cron entries, in the order of their declaration."""
        return tuple(self._cron.values())

    def cron_entry(self, name: object) -> CronEntry | None:
        """Return the cron entry of that name, or ``None``."""
        return self._cron.get(name) if isinstance(name, str) else None

    def _rename_provisional(self, old: str | None, new: str) -> None:
        """Rename the task that @cron registered, and a cron entry that has the task's name."""
        if old is None or old == new or old not in self._provisional:
            return
        func = self._handlers[old].func
        for entry in self.cron_entries:
            if entry.task != old:
                continue
            renamed = attrs.evolve(entry, task=new)
            if isinstance(entry.name, DerivedName):
                renamed = attrs.evolve(renamed, name=DerivedName(new))
                self._check_cron_name(new, func, renamed)
                del self._cron[entry.name], self._cron_functions[entry.name]
                del self._cron_runs[entry.name]
            self._put_cron(renamed, func)
        self._provisional.discard(old)
        del self._handlers[old]

    def get(self, name: object) -> Handler | None:
        """Return the handler of ``name``, or ``None``."""
        return self._handlers.get(name) if isinstance(name, str) else None

    def handler_of(self, name: str) -> Handler:
        """Return the handler of ``name``.

        :raises UnknownTaskError: none is registered.
        """
        try:
            return self._handlers[name]
        except KeyError:
            raise UnknownTaskError(f"no handler is registered for task {name!r}") from None

    def names(self) -> tuple[str, ...]:
        """Return the names of the registered tasks, in the order of their registration."""
        return tuple(self._handlers)

    def find_name(self, func: Callable[..., Any]) -> str | None:
        """Return the task name of a function, or ``None``."""
        return self._names.get(identity(func))

    def name_of(self, func: Callable[..., Any]) -> str:
        """Return the task name of a registered function.

        :raises UnknownTaskError: it is not registered here.
        """
        try:
            return self._names[identity(func)]
        except KeyError:
            raise UnknownTaskError(
                f"{location(func)} is not a task of this registry; decorate it with @job(...)"
            ) from None

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name in self._handlers

    def __iter__(self) -> Iterator[str]:
        return iter(self._handlers)

    def __len__(self) -> int:
        return len(self._handlers)


def _check_args(
    entry: CronEntry,
    func: Callable[..., Any],
    *,
    args_model: type[BaseModel] | None,
    injected: frozenset[str],
) -> None:
    """Refuse a cron entry whose args its handler can't be called with. A function's are unknown.

    :raises InvalidSettingError: see above.
    """
    if not callable(entry.args):
        check_cron_args(entry.name, func, entry.args, args_model=args_model, injected=injected)


def resolve_registry(registry: HandlerRegistry | None) -> HandlerRegistry:
    """Return the registry that was passed, or the shared one for ``None``.

    :raises InvalidSettingError: it is not a registry.
    """
    if registry is None:
        return default_registry
    if not isinstance(registry, HandlerRegistry):
        raise InvalidSettingError(f"registry must be a HandlerRegistry, not {registry!r}")
    return registry


default_registry = HandlerRegistry()
"""The shared registry: ``@job`` fills it, and clients and workers use it by default."""


def with_defaults(job: JobInsert, registry: HandlerRegistry) -> JobInsert:
    """Return ``job`` with the task's defaults where the caller passed nothing.

    For a task that isn't registered here the insert takes them from ``roost.tasks``; see
    `roost._model.encoding`.
    """
    handler = registry.get(job.task)
    if handler is None:
        return job
    changes: dict[str, Any] = {}
    for name, declared, optional in handler.declared:
        value = getattr(job, name)
        if is_default(value) or (value is None and optional):
            changes[name] = declared
    if not changes:
        return job
    # A third of the time of attrs.evolve.
    full = JobInsert(*_FIELDS(job))
    for name, value in changes.items():
        setattr(full, name, value)
    return full


_FIELDS = attrgetter(*(field.name for field in attrs.fields(JobInsert)))


def _declared(defaults: TaskDefaults) -> tuple[tuple[str, object, bool], ...]:
    """Return the columns that a task has a default for: name, value, and whether it may be null."""
    return tuple(
        (field.name, list(value) if isinstance(value, tuple) else value, field.default is None)
        for field in attrs.fields(JobInsert)
        if (value := getattr(defaults, field.name, None)) is not None
    )


PUBLISHED = ("queue", "priority", "max_attempts", "tags", "timeout_seconds")
"""The options of a task that workers publish in ``roost.tasks``."""


def published_options(registry: HandlerRegistry) -> dict[str, dict[str, object]]:
    """Return the options that each task declares, for ``roost.tasks``."""
    return {
        task: {
            name: value
            for name, value, _ in registry.handler_of(task).declared
            if name in PUBLISHED
        }
        for task in registry
    }
