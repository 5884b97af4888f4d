"""Merge keys into the metadata of running jobs. Each write is made only while its lease holds."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import attrs

from roost._model.job_metadata import as_object
from roost._model.verdict import Lease
from roost._ops.query import Op, Query
from roost._ops.settle import lease_columns
from roost._sql import statements

_UPDATE = statements("metadata")["update_metadata"]
_STILL_HELD = statements("settle")["still_held"]


@attrs.frozen
class Unwritten:
    """The changes of a batch that were not written.

    :param lost: the lease does not hold any more.
    :param busy: the row was locked; try again.
    """

    lost: Collection[Lease]
    busy: Collection[Lease]


def update_metadata(changes: Mapping[Lease, Mapping[str, str]]) -> Op[Unwritten]:
    """Set top-level keys of the metadata of running jobs, and keep their other keys.

    One statement writes all. To repeat the call after an unknown outcome is safe: it sets the same
    values. A second statement asks for the leases of the jobs that were not written.

    :param changes: for each lease the JSON texts to set, by encoded key; one lease for each job.
    """
    texts = ",".join(
        f'"{lease.job_id}:{lease.worker_id}:{lease.lease_no}":{as_object(keys)}'
        for lease, keys in changes.items()
    )
    rows = yield Query(_UPDATE, (*lease_columns(list(changes)), f"{{{texts}}}"))
    written = {job_id for (job_id,) in rows}
    left = [lease for lease in changes if lease.job_id not in written]
    if not left:
        return Unwritten((), ())
    rows = yield Query(_STILL_HELD, lease_columns(left))
    held = {(job_id, lease_no) for job_id, lease_no, _ in rows}
    busy = {lease for lease in left if (lease.job_id, lease.lease_no) in held}
    return Unwritten(set(left) - busy, busy)
