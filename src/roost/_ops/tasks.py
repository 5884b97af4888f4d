"""Publish what a worker's code declares for its tasks, and list the tasks.

An enqueue by a client that does not know the task fills from its options what was not passed.
"""

from __future__ import annotations

from collections.abc import Mapping

from roost._model.codec import decode, encode
from roost._model.info import TaskInfo
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("tasks")


def publish_tasks(
    worker_id: int,
    declared: Mapping[str, Mapping[str, object]],
    schemas: Mapping[str, str | None] | None = None,
) -> Op[None]:
    """Declare the options of each task; ``{}``: the usual defaults.

    Options that were not declared before replace the known ones. Options that were replaced before
    come from older code: they replace the newer ones only when no living worker declares those.

    :param worker_id: the worker that declares them. Call it again while the worker lives, since
        older options may count again later.
    :param schemas: the JSON Schema of the args of each task, as JSON text.
    """
    options = [encode(dict(values)) for values in declared.values()]
    of_args = [(schemas or {}).get(task) for task in declared]
    yield Query(_SQL["publish_tasks"], (worker_id, list(declared), options, of_args))


def list_tasks() -> Op[list[TaskInfo]]:
    """Return the tasks that a worker has had a handler for, by name."""
    rows = yield Query(_SQL["list_tasks"])
    return [
        TaskInfo(
            name=name,
            options=decode(options),
            args_schema=None if schema is None else decode(schema),
            max_concurrency=max_concurrency,
            rate_per_minute=rate_per_minute,
            limit_by=limit_by,
            workers=workers,
            queues=list(queues),
        )
        for (
            name,
            options,
            schema,
            max_concurrency,
            rate_per_minute,
            limit_by,
            workers,
            queues,
        ) in rows
    ]
