"""Metadata of a running job is merged under its lease, or not at all."""

from __future__ import annotations

from typing import Any

from tests.ops.conftest import Sessions
from tests.support.job_table import JobTable

from roost._model.job_metadata import encoded_changes
from roost._model.verdict import Lease
from roost._ops.metadata import Unwritten, update_metadata


def merge(table: JobTable, *changes: tuple[Lease, dict[str, Any]]) -> Unwritten:
    return table.run(update_metadata({lease: encoded_changes(keys) for lease, keys in changes}))


def claim(table: JobTable, *metadata: dict[str, Any] | None) -> list[Lease]:
    for one in metadata:
        table.add(metadata=one)
    return [job.lease for job in table.claim(table.add_worker()).jobs]


def test_keys_are_merged_and_a_value_is_replaced_as_a_whole(table: JobTable) -> None:
    one, two = claim(table, {"a": {"x": 1}, "b": 2}, None)
    unwritten = merge(table, (one, {"a": {"y": 'é"\\'}, "c": None}), (two, {"d": [1]}))
    assert unwritten == Unwritten((), ())
    assert table.get(one.job_id).metadata == {"a": {"y": 'é"\\'}, "b": 2, "c": None}
    assert table.get(two.job_id).metadata == {"d": [1]}
    row = table.get(one.job_id)
    assert (row.state, row.attempt) == ("executing", 1)


def test_without_its_lease_nothing_is_written(table: JobTable) -> None:
    good, other, ended = claim(table, {"a": 1}, {"a": 1}, {"a": 1})
    table.change(ended.job_id, "state = 'completed', completed_at = now()")
    wrong = [
        other._replace(lease_no=other.lease_no + 1),
        ended,
        Lease(10**6, other.worker_id, 1),
    ]
    unwritten = merge(table, (good, {"a": 2}), *((lease, {"a": 3}) for lease in wrong))
    assert (set(unwritten.lost), set(unwritten.busy)) == (set(wrong), set())
    assert merge(table, (other._replace(worker_id=other.worker_id + 1), {"a": 3})).lost
    assert table.get(good.job_id).metadata == {"a": 2}
    assert table.get(other.job_id).metadata == table.get(ended.job_id).metadata == {"a": 1}


def test_a_locked_row_is_passed_over_and_the_others_are_written(
    table: JobTable, sessions: Sessions
) -> None:
    locked, free = claim(table, None, None)
    other = sessions.open()
    with other.connection.transaction():
        other.rows("select from roost.jobs where id = $1::bigint for share", locked.job_id)
        unwritten = merge(table, (locked, {"a": 1}), (free, {"a": 2}))
        assert (list(unwritten.lost), list(unwritten.busy)) == ([], [locked])
        assert table.get(free.job_id).metadata == {"a": 2}
    assert merge(table, (locked, {"a": 1})) == Unwritten((), ())
    assert table.get(locked.job_id).metadata == {"a": 1}


def test_of_a_write_and_the_lease_lost_at_once_one_comes_first(
    table: JobTable, sessions: Sessions
) -> None:
    [lease] = claim(table, None)
    other = sessions.open()
    with other.connection.transaction():
        other.change(lease.job_id, "lease_no = lease_no + 1")
        # Not committed: the lease holds, and the row is passed over.
        assert list(merge(table, (lease, {"a": 1})).busy) == [lease]
    assert list(merge(table, (lease, {"a": 1})).lost) == [lease]
    assert table.get(lease.job_id).metadata == {}
