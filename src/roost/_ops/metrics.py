"""Read the numbers of the database that one of the scraped workers exports as metrics."""

from __future__ import annotations

from roost._model.database_view import DatabaseNumbers, count_workers
from roost._ops.query import Op, Query
from roost._ops.read import list_queues
from roost._sql import statements

_SQL = statements("metrics")


def read_numbers(worker_id: int, *, scraped_within: float) -> Op[DatabaseNumbers | None]:
    """Record that this worker is scraped, and read the numbers if it is to export them.

    :param scraped_within: seconds since the last scrape of an older worker within which that one
        exports them.
    :returns: ``None``: another worker exports them.
    """
    rows = yield Query(_SQL["record_scrape"], (worker_id, scraped_within))
    if not rows or not rows[0][0]:
        return None
    queues = yield from list_queues()
    workers_of, living, dead = count_workers((yield Query(_SQL["workers_of_queues"])))
    return DatabaseNumbers(queues=queues, workers_of=workers_of, living=living, dead=dead)
