"""Invariants of the tables: the README's list, as checks that do not use the model.

They compare the real tables before and after one step. So they find a wrong rule of the state
machine even if the same mistake is in SQL and in the model.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Sequence
from typing import Any

from roost._model.states import ACTIVE, MOVES, TERMINAL, Event, JobState

Tables = dict[str, list[dict[str, Any]]]

ALLOWED = {
    (move.source, move.target, move.attempt) for move in MOVES if move.event is not Event.REVIVE
}
REVIVALS = {
    (move.source, move.target, move.attempt) for move in MOVES if move.event is Event.REVIVE
}

KEPT = {"inserted_at", "priority", "max_attempts", "timeout_seconds", "queue", "task", "unique_key"}
"""Columns that nothing changes after the enqueue."""

REPLACED = {"priority", "max_attempts", "timeout_seconds", "queue"}
"""Of these, what a replaced job gets from the new one."""

WAITING = ("available", "retryable")

LATER = {"result": None, "awaited": False, "prefetch_no": None}
"""The only changes after a job's end, with the new values: results are forgotten, and the archive
keeps neither that a caller waited for the job nor how it was claimed."""


def check(
    before: Tables,
    after: Tables,
    *,
    error_cap: int,
    revived: bool,
    deleted: Collection[JobState],
    replaced: bool,
) -> None:
    """Check every row of ``after``, and the change of every row of ``before``.

    :param error_cap: how many error records a row may have.
    :param revived: whether the step was a verb that makes ended jobs available again.
    :param deleted: states in which a job may have been before a step that deletes it.
    :param replaced: whether the step was an enqueue, or an update, that may change waiting jobs.
    """
    old, new = _by_id(before), _by_id(after)
    unaccepted = {row["dispatched_job_id"] for row in before["workers"]}
    for job_id, row in new.items():
        _check_row(row, error_cap)
        if old.get(job_id) != row:
            was = old.get(job_id)
            _check_move(
                was,
                row,
                revived=revived,
                replaced=replaced and was is not None and was["state"] in WAITING,
                unaccepted=job_id in unaccepted,
            )
            if replaced and was is not None and was["state"] not in WAITING:
                changed = {column for column in row if row[column] != was[column]}
                assert changed <= {"unique_waiting", "has_children"}, f"replaced: {was} → {row}"
    _check_dispatches(before, after, new.keys() - old.keys())
    gone = {
        job_id
        for job_id in old.keys() - new.keys()
        if JobState(old[job_id]["state"]) not in deleted
    }
    assert not gone, f"jobs {sorted(gone)} are gone"
    _check_unique_keys(after["jobs"])
    _check_dependencies(new, after["dependencies"])


def check_order(jobs: Sequence[dict[str, Any]]) -> None:
    """Check that a claim returned jobs in the order in which they run."""
    order = [(job["priority"], job["scheduled_at"], job["id"]) for job in jobs]
    assert order == sorted(order), f"not in running order: {order}"


def _by_id(tables: Tables) -> dict[int, dict[str, Any]]:
    """Return all jobs, live and archived."""
    live = {row["id"]: row for row in tables["jobs"]}
    archived = {row["id"]: row for row in tables["jobs_archive"]}
    twice = live.keys() & archived.keys()
    assert not twice, f"jobs {sorted(twice)} are both live and archived"
    for row in archived.values():
        assert row["state"] in TERMINAL, f"archived before its end: {row}"
    return live | {
        job_id: {name: value for name, value in row.items() if name != "archived_at"}
        for job_id, row in archived.items()
    }


def _check_row(row: dict[str, Any], error_cap: int) -> None:
    assert row["attempt"] <= row["max_attempts"], f"more attempts than allowed: {row}"
    assert len(row["errors"] or []) <= error_cap, f"more errors than allowed: {row}"
    held = row["state"] == JobState.EXECUTING
    assert not held or row["worker_id"], f"executing without a worker: {row}"
    for state in TERMINAL:
        ended, moment = row["state"] == state, f"{state.value}_at"
        assert (row[moment] is not None) is ended, f"{moment} doesn't fit: {row}"


def _check_move(
    old: dict[str, Any] | None,
    row: dict[str, Any],
    *,
    revived: bool,
    replaced: bool,
    unaccepted: bool,
) -> None:
    if old is None:
        made = (None, JobState(row["state"]), row["attempt"])
        assert made in ALLOWED, f"no such move: {made}: {row}"
        assert row["lease_no"] == row["attempt"], f"a new job's lease is its first: {row}"
        return
    # A revived job gets at least one more attempt.
    may_change = REPLACED if replaced else {"max_attempts"} if revived else set()
    for column in KEPT - may_change:
        assert old[column] == row[column], f"{column} changed: {old} → {row}"
    if old["state"] in TERMINAL and not revived:
        changed = {column: row[column] for column in row if row[column] != old[column]}
        assert changed.items() <= LATER.items(), f"changed after its end: {old} → {row}"
        return
    claims = row["lease_no"] - old["lease_no"]
    if old["state"] == row["state"] and not claims:
        assert old["attempt"] == row["attempt"], f"attempt changed without a move: {old} → {row}"
        return
    if old["state"] == row["state"] and unaccepted:
        # Its worker has not accepted it, so another one may take it over.
        assert (claims, row["attempt"]) == (1, old["attempt"]), f"no take-over: {old} → {row}"
        return
    change = (JobState(old["state"]), JobState(row["state"]), row["attempt"] - old["attempt"])
    assert change in (REVIVALS if revived else ALLOWED), f"no such move: {change}: {row}"
    # One lease at a time: a new one only for a job without a holder.
    taken = row["state"] == JobState.EXECUTING
    assert claims == (1 if taken else 0), f"a lease is counted with a claim only: {old} → {row}"
    assert taken or old["worker_id"] == row["worker_id"], f"holder changed: {old} → {row}"


def _check_dispatches(before: Tables, after: Tables, new: Collection[int]) -> None:
    """Check that each of the ``new`` jobs that already runs consumed one credit."""
    dispatched = Counter(
        row["worker_id"]
        for row in after["jobs"]
        if row["id"] in new and row["state"] == JobState.EXECUTING
    )
    had_credit = {row["id"] for row in before["workers"] if row["credit"] is not None}
    used_up = {row["id"] for row in after["workers"] if row["credit"] is None}
    for worker_id, jobs in dispatched.items():
        assert worker_id in had_credit, f"worker {worker_id} was given a job without a credit"
        assert worker_id in used_up, f"worker {worker_id} was given a job and still has its credit"
        assert jobs == 1, f"worker {worker_id} was given {jobs} jobs for one credit"


def _check_unique_keys(jobs: Sequence[dict[str, Any]]) -> None:
    active = Counter(
        row["unique_key"]
        for row in jobs
        if row["state"] in ACTIVE and not (row["unique_waiting"] and row["lease_no"] > 0)
    )
    del active[None]
    twice = [key for key, count in active.items() if count > 1]
    assert not twice, f"several active jobs hold the keys {twice}"


def _check_dependencies(
    jobs: dict[int, dict[str, Any]], dependencies: Sequence[dict[str, Any]]
) -> None:
    waiting = Counter(row["child_id"] for row in dependencies)
    for row in dependencies:
        parent = jobs[row["parent_id"]]
        assert parent["state"] in ACTIVE, f"waits for a parent that has ended: {row} {parent}"
        assert parent["has_children"], f"waits for a parent that doesn't know: {row} {parent}"
    for row in jobs.values():
        # A child that was cancelled, or revived, no longer counts them.
        counted = row["pending_parents"]
        assert counted in (0, waiting[row["id"]]), f"counts other parents: {row}"
        blocked = row["pending_parents"] > 0
        assert not blocked or row["state"] == "available", f"did not wait for its parents: {row}"
