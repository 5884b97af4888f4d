"""Publish, set and list limits, and mark jobs of limited tasks."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime

import attrs

from roost._model.info import LimitInfo
from roost._model.job import TaskDefaults
from roost._model.limits import stored_limit_by
from roost._model.verdict import Lease
from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("limits")
_KEYS = statements("limits_by_key")

MARK_BATCH = 1_000
"""Jobs that one statement marks."""

_BEFORE_ALL = (-(2**31), datetime(1, 1, 2, tzinfo=UTC), 0)
"""A priority, a time and an id before those of every job."""


def publish_limits(declared: Mapping[str, TaskDefaults]) -> Op[None]:
    """Set the limits of these tasks for the whole fleet; a task without limits loses its own."""
    limited = {
        task: defaults
        for task, defaults in declared.items()
        if defaults.rate_per_minute is not None
        or defaults.max_concurrency is not None
        or defaults.limit_by is not None
    }
    if limited:
        rates = [defaults.rate_per_minute for defaults in limited.values()]
        counts = [defaults.max_concurrency for defaults in limited.values()]
        keys = [stored_limit_by(defaults.limit_by) for defaults in limited.values()]
        yield Query(_SQL["publish_limits"], (list(limited), rates, counts, keys))
    yield Query(_SQL["lift_limits"], ([task for task in declared if task not in limited],))


def set_limit(task: str, *, max_concurrency: int | None, rate_per_minute: int | None) -> Op[None]:
    """Set limits of a task, whatever code declares; ``None``: that one stays as it is."""
    yield Query(_SQL["set_limit"], (task, max_concurrency, rate_per_minute))


def clear_limit(task: str) -> Op[bool]:
    """Remove what `set_limit` has set; ``False``: nothing."""
    rows = yield Query(_SQL["clear_limit"], (task,))
    return bool(rows[0][0])


def list_limits() -> Op[list[LimitInfo]]:
    """Return the limits that apply, by task."""
    rows = yield Query(_SQL["list_limits"])
    return [
        LimitInfo(
            task=task,
            max_concurrency=max_concurrency,
            rate_per_minute=rate_per_minute,
            declared_max_concurrency=declared_max_concurrency,
            declared_rate_per_minute=declared_rate_per_minute,
            set_max_concurrency=set_max_concurrency,
            set_rate_per_minute=set_rate_per_minute,
            limit_by=limit_by,
            executing=executing,
            started=started,
        )
        for (
            task,
            max_concurrency,
            rate_per_minute,
            declared_max_concurrency,
            declared_rate_per_minute,
            set_max_concurrency,
            set_rate_per_minute,
            limit_by,
            executing,
            started,
        ) in rows
    ]


def limited_tasks() -> Op[frozenset[str]]:
    """Return the tasks whose jobs are marked as limited."""
    rows = yield Query(_SQL["limited_tasks"])
    return frozenset(task for (task,) in rows)


def count_start_now(lease: Lease) -> Op[bool]:
    """Count the start of this attempt as of now, not as of its claim.

    :returns: ``False`` if it was counted more than a minute ago or not at all, or the lease does
        not hold. Then the job must be claimed again to be counted.
    """
    parameters = (lease.job_id, lease.worker_id, lease.lease_no)
    rows = yield Query(_SQL["count_start_now"], parameters)
    return bool(rows)


def mark_limited_jobs() -> Op[int]:
    """Mark active jobs that were enqueued before their task had a limit; return how many.

    A later call checks a task again until every transaction that could not see its limit has ended.
    """
    yield Query(_SQL["stamp_limits"])
    rows = yield Query(_SQL["unmarked_limits"])
    tasks = [task for task, _, _ in rows]
    marked = 0
    while tasks:
        batch = yield Query(_SQL["mark_jobs"], (tasks, MARK_BATCH))
        marked += len(batch)
        if len(batch) < MARK_BATCH:
            break
    final = {task for task, is_final, _ in rows if is_final}
    for task, _, has_stale_keys in rows:
        if has_stale_keys:
            stale = yield from _renew_keys(task)
            marked += stale
            if stale:
                final.discard(task)  # some of them may have been locked
    if final:
        yield Query(_SQL["finish_marking"], (sorted(final),))
    return marked


def _renew_keys(task: str) -> Op[int]:
    """Give the waiting and running jobs of a task the keys that its limit_by says now.

    :returns: how many had another key.
    """
    running = yield Query(_KEYS["renew_running_keys"], ([task],))
    stale = len(running)
    queues = yield Query(_KEYS["queues_of_limited"], (task,))
    for (queue,) in queues:
        place: tuple[object, ...] = _BEFORE_ALL
        while True:
            parameters = (task, queue, *place, MARK_BATCH)
            [(*place_now, looked_at, renewed)] = yield Query(_KEYS["renew_keys"], parameters)
            stale += renewed
            if looked_at < MARK_BATCH:
                break
            place = tuple(place_now)
    return stale


@attrs.frozen
class KeyPlace:
    """A place in the order of the limit keys with waiting jobs."""

    task: str = ""
    limit_key: str = ""
    queue: str = ""


def revisit_keys(place: KeyPlace, *, limit: int) -> Op[KeyPlace]:
    """Have claims look at the next ``limit`` limit keys, in case that a request was lost.

    :returns: the place to go on from.
    """
    tasks = yield Query(_KEYS["keyed_tasks"])
    if not tasks:
        yield Query(_KEYS["forget_keys"])
        return KeyPlace()
    parameters = (place.task, place.limit_key, place.queue, limit)
    rows = yield Query(_KEYS["revisit_keys"], parameters)
    return KeyPlace(*rows[0]) if rows else KeyPlace()
