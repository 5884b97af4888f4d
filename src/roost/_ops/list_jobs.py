"""Find the newest jobs that fit a filter, live and archived, by the indexes that the filter allows.

Must run inside a transaction of its own. Reads only.
"""

from __future__ import annotations

import attrs

from roost._model.job import Job
from roost._model.job_filter import CheckedFilter
from roost._model.states import ACTIVE, TERMINAL, JobState
from roost._ops.query import Op, Query
from roost._ops.read import job_of
from roost._ops.steer import QUERY_CANCELED, SEARCH_TIMEOUT
from roost._sql import statements
from roost.exceptions import DatabaseError, FilterTooSlowError

_SQL = statements("list_jobs")


@attrs.frozen
class _Table:
    """The names of the statements that read a table of jobs."""

    edge: str
    walk: str
    count_ended: str
    few: str


_LIVE = _Table("edge_of_newest", "walk_jobs", "count_ended", "few_jobs")
_ARCHIVE = _Table(
    "edge_of_newest_archived", "walk_archive", "count_ended_archived", "few_archived_jobs"
)

WINDOW = 10_000
"""The newest jobs of a table, which are walked before an index is used: 8 ms (November 2026)."""

FEW_ENDED = 50_000
"""Jobs in a range of ends up to which they are all read before the newest jobs are walked."""

MANY_ENDED = 200_000
"""Jobs of ended states from which on the table is walked in the order of the ids, after the newest
jobs were walked in vain. To read so many takes 0.15 s, to walk a million waiting jobs 0.7 s
(November 2026)."""

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
    page = _Page(below=below, above=0, limit=limit, timeout=timeout)
    jobs = yield from _newest_live(where, page)
    if where.includes(TERMINAL):
        # Those that are older than a full page of live jobs are not on it.
        above = jobs[-1].id if len(jobs) == limit else 0
        yield from bound_search(timeout)
        jobs += yield from _newest_archived(where, attrs.evolve(page, above=above))
        jobs.sort(key=lambda job: job.id, reverse=True)
    return jobs[:limit]


@attrs.frozen(kw_only=True)
class _Page:
    """The newest ``limit`` jobs with ids between ``above`` and ``below``."""

    below: int
    above: int
    limit: int
    timeout: int


def _newest_live(where: CheckedFilter, page: _Page) -> Op[list[Job]]:
    if (yield from _few_fit(_LIVE, where)):
        return (yield from _read(_LIVE.few, where, page))
    indexed = INDEXED.issuperset(where.states)
    if indexed and JobState.AVAILABLE not in where.states:
        return (yield from _by_index(where, page))
    # Most pages are among the newest jobs. An index that is not in the order of the ids would be
    # read to its end.
    jobs, rest = yield from _among_newest(_LIVE, where, page)
    if rest is None:
        return jobs
    if indexed:
        return jobs + (yield from _by_index(where, rest))
    return jobs + (yield from _behind(_LIVE, where, rest))


def _newest_archived(where: CheckedFilter, page: _Page) -> Op[list[Job]]:
    if (yield from _few_fit(_ARCHIVE, where)):
        return (yield from _read(_ARCHIVE.few, where, page))
    jobs, rest = yield from _among_newest(_ARCHIVE, where, page)
    if rest is None:
        return jobs
    return jobs + (yield from _behind(_ARCHIVE, where, rest))


def _few_fit(table: _Table, where: CheckedFilter) -> Op[bool]:
    if where.ids is not None:
        return True
    if where.unique_key is not None and ACTIVE.issuperset(where.states):
        return True
    return where.names_an_end and (yield from _few_ended(table, where, FEW_ENDED))


def _few_ended(table: _Table, where: CheckedFilter, most: int) -> Op[bool]:
    times = (where.finished_after, where.finished_before)
    [[ended]] = yield Query(_SQL[table.count_ended], (where.states, *times, most))
    return bool(ended < most)


def _among_newest(
    table: _Table, where: CheckedFilter, page: _Page
) -> Op[tuple[list[Job], _Page | None]]:
    """Return those of the newest jobs that fit, and the page that is left behind them."""
    edge = yield Query(_SQL[table.edge], (page.below, page.above, WINDOW))
    above = edge[0][0] if edge else page.above
    jobs = yield from _read(table.walk, where, attrs.evolve(page, above=above))
    if above == page.above or len(jobs) == page.limit:
        return jobs, None
    return jobs, attrs.evolve(page, below=above + 1, limit=page.limit - len(jobs))


def _behind(table: _Table, where: CheckedFilter, page: _Page) -> Op[list[Job]]:
    if TERMINAL.issuperset(where.states) and (yield from _few_ended(table, where, MANY_ENDED)):
        return (yield from _read(table.few, where, page))
    # Where the planner knows that few jobs fit, a scan takes a fourth of the time of a walk.
    yield from bound_search(page.timeout, scan=True)
    return (yield from _read(table.walk, where, page))


def _read(statement: str, where: CheckedFilter, page: _Page) -> Op[list[Job]]:
    params = (*where.params, page.below, page.above, page.limit)
    rows = yield Query(_SQL[statement], params)
    return [job_of(row) for row in rows]


def _by_index(where: CheckedFilter, page: _Page) -> Op[list[Job]]:
    parts = ({JobState.AVAILABLE}, {JobState.EXECUTING}, COUNTED)
    params = (*where.params, page.below, page.above, page.limit)
    included = (where.includes(part) for part in parts)
    return [job_of(row) for row in (yield Query(_SQL["indexed_jobs"], (*params, *included)))]
