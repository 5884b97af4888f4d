"""From an enqueue call to a complete `JobInsert`: the task's name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from roost._model.registry import HandlerRegistry


def task_name(task: str | Callable[..., Any], registry: HandlerRegistry) -> str:
    """Return the name of a task given by name or as the decorated function.

    :raises UnknownTaskError: the function is not registered.
    """
    return registry.name_of(task) if callable(task) else task
