"""Find the newest jobs that fit a filter, live and archived, by the indexes that the filter allows.

Must run inside a transaction of its own. Reads only.
"""

from __future__ import annotations

from roost._model.job import Job
from roost._model.job_filter import CheckedFilter
from roost._model.states import ACTIVE, TERMINAL, JobState
from roost._ops.query import Op, Query
from roost._ops.read import job_of
from roost._ops.steer import QUERY_CANCELED, SEARCH_TIMEOUT
from roost._sql import statements
from roost.exceptions import DatabaseError, FilterTooSlowError

_SQL = statements("list_jobs")

WINDOW = 10_000
"""The newest live jobs, which are walked before an index is used: 8 ms (November 2026)."""

MANY_ENDED = 50_000
"""Jobs in a range of ends from which on all jobs are walked in the order of their ids."""

COUNTED = frozenset({JobState.AVAILABLE, JobState.RETRYABLE, JobState.DISCARDED})
"""The states of the index jobs_counted; of available jobs it has the blocked ones."""

INDEXED = COUNTED | {JobState.EXECUTING}
"""The states of which partial indexes hold all jobs."""


def list_jobs(
    where: CheckedFilter, *, below: int, limit: int, timeout: int = SEARCH_TIMEOUT
) -> Op[list[Job]]:
    """Return the jobs that fit the filter and have the greatest ids below ``below``.

    :param limit: the most jobs.
    :param timeout: milliseconds that each of its statements may take.
    :raises FilterTooSlowError: a statement took longer.
    """
    yield Query(_SQL["begin_snapshot"])
    yield from bound_search(timeout)
    try:
        return (yield from _newest(where, below=below, limit=limit, timeout=timeout))
    except DatabaseError as error:
        if error.sqlstate != QUERY_CANCELED:
            raise
        raise FilterTooSlowError(
            f"the search for the jobs of this filter took more than {timeout // 1_000} s: add "
            "ids, a time of their end, or states other than completed and cancelled, for which "
            "there are indexes"
        ) from error


def bound_search(timeout: int = SEARCH_TIMEOUT, *, scan: bool = False) -> Op[None]:
    """Have the later statements of the transaction use indexes, and end in time.

    :param timeout: milliseconds that each of them may take.
    :param scan: whether they may scan a table from end to end, too.
    """
    yield Query(_SQL["bound_search"], (str(timeout), "on" if scan else "off"))


def _newest(where: CheckedFilter, *, below: int, limit: int, timeout: int) -> Op[list[Job]]:
    jobs = yield from _newest_live(where, below=below, limit=limit, timeout=timeout)
    if where.includes(TERMINAL):
        # Those that are older than a full page of live jobs are not on it.
        above = jobs[-1].id if len(jobs) == limit else 0
        yield from bound_search(timeout, scan=True)
        jobs += yield from _walk("walk_archive", where, below=below, above=above, limit=limit)
        jobs.sort(key=lambda job: job.id, reverse=True)
    return jobs[:limit]


def _newest_live(where: CheckedFilter, *, below: int, limit: int, timeout: int) -> Op[list[Job]]:
    if (yield from _few_fit(where)):
        return (yield from _walk("few_jobs", where, below=below, above=0, limit=limit))
    indexed = INDEXED.issuperset(where.states)
    if indexed and JobState.AVAILABLE not in where.states:
        return (yield from _by_index(where, below=below, limit=limit))
    # Most pages are among the newest jobs. An index that is not in the order of the ids would be
    # read to its end.
    edge = yield Query(_SQL["edge_of_newest"], (below, WINDOW))
    above = edge[0][0] if edge else 0
    jobs = yield from _walk("walk_jobs", where, below=below, above=above, limit=limit)
    if above == 0 or len(jobs) == limit:
        return jobs
    rest = limit - len(jobs)
    if indexed:
        return jobs + (yield from _by_index(where, below=above + 1, limit=rest))
    # Where the planner knows that few jobs fit, a scan takes a fourth of the time of a walk.
    yield from bound_search(timeout, scan=True)
    return jobs + (yield from _walk("walk_jobs", where, below=above + 1, above=0, limit=rest))


def _few_fit(where: CheckedFilter) -> Op[bool]:
    if where.ids is not None:
        return True
    if where.unique_key is not None and ACTIVE.issuperset(where.states):
        return True
    if not where.names_an_end:
        return False
    times = (where.finished_after, where.finished_before)
    [[ended]] = yield Query(_SQL["count_ended"], (where.states, *times, MANY_ENDED))
    return bool(ended < MANY_ENDED)


def _walk(
    statement: str, where: CheckedFilter, *, below: int, above: int, limit: int
) -> Op[list[Job]]:
    rows = yield Query(_SQL[statement], (*where.params, below, above, limit))
    return [job_of(row) for row in rows]


def _by_index(where: CheckedFilter, *, below: int, limit: int) -> Op[list[Job]]:
    parts = ({JobState.AVAILABLE}, {JobState.EXECUTING}, COUNTED)
    params = (*where.params, below, 0, limit, *(where.includes(part) for part in parts))
    return [job_of(row) for row in (yield Query(_SQL["indexed_jobs"], params))]
