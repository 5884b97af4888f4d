"""From an enqueue call to a complete `JobInsert`: the task's name and its declared defaults."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import attrs

from roost._model.job import JobInsert, is_default
from roost._model.registry import HandlerRegistry


def task_name(task: str | Callable[..., Any], registry: HandlerRegistry) -> str:
    """Return the name of a task given by name or as the decorated function.

    :raises UnknownTaskError: the function is not registered.
    """
    return registry.name_of(task) if callable(task) else task


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
