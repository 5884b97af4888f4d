"""Explain why a job does not run: read the facts, and decide.

Must run inside a transaction of its own. Reads only.
"""

from __future__ import annotations

from roost._model.codec import decode
from roost._model.explain import explain
from roost._model.explain_facts import Facts
from roost._model.explanation import Explanation
from roost._ops.list_jobs import bound_search
from roost._ops.query import Op, Query
from roost._sql import statements
from roost.exceptions import JobNotFoundError

_SQL = statements("explain")


def explain_job(job_id: int) -> Op[Explanation]:
    """Return why a job does not run, or what it does instead.

    :raises JobNotFoundError: no job has that id.
    """
    yield from bound_search()
    rows = yield Query(_SQL["facts"], (job_id,))
    if not rows:
        raise JobNotFoundError(f"no job has the id {job_id}")
    return explain(Facts.from_record(decode(rows[0][0])))
