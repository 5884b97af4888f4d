"""Settle: attempts end, and their children are released or cancelled."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, assert_never

from property_tests.oracle.rows import JobRow
from property_tests.oracle.tables import FAILED, Tables, Waits, lease_of
from property_tests.words import (
    Cancel,
    CancelItself,
    DiscardItself,
    End,
    Ending,
    Fail,
    FailForGood,
    Grant,
    Release,
    RetryItself,
    Settled,
    Snooze,
    Succeed,
    TimeOut,
)

from roost._model.verdict import Lease


class Settle(Tables):
    """The verb."""

    def settle(
        self, *, ends: Sequence[End], error_cap: int, keep_completed: bool = True
    ) -> Settled:
        """End the attempts whose lease holds, and apply the consequences for their children.

        A completed job that nothing keeps is gone, unless a client waits for it.
        """
        held = [end for end in ends if self._is_held(end.grant.lease)]
        lost = {end.grant.lease for end in ends} - {end.grant.lease for end in held}
        parents = [end for end in held if self.jobs[end.grant.lease.job_id].has_children]
        others = [end for end in held if end not in parents]
        busy = self._end_all(others, error_cap, keep_completed)
        try:
            with self._all_or_nothing():
                busy |= self._end_all(parents, error_cap, keep_completed)
        except Waits:
            busy |= {end.grant.lease for end in parents}
        return Settled(lost, busy)

    def update_metadata(self, *, grant: Grant, changes: dict[str, Any]) -> str:
        """Merge the changes into the job's metadata if the lease holds."""
        if not self._is_held(grant.lease):
            return "lost"
        row = self.jobs[grant.lease.job_id]
        if row.id in self._held.jobs:
            return "busy"
        self._locks.jobs.add(row.id)  # also if it sets what the row has
        row.metadata = {**(row.metadata or {}), **changes}
        return "written"

    def _is_held(self, lease: Lease) -> bool:
        row = self.jobs.get(lease.job_id)
        return row is not None and row.state == "executing" and lease_of(row) == lease

    def _end_all(self, ends: Sequence[End], error_cap: int, keep_completed: bool) -> set[Lease]:
        """End attempts, and return the leases of rows that another transaction holds."""
        busy = {end.grant.lease for end in ends if end.grant.lease.job_id in self._held.jobs}
        rows = []
        for end in ends:
            if end.grant.lease not in busy:
                row = self.jobs[end.grant.lease.job_id]
                self._end(row, end.ending, error_cap)
                rows.append(row)
        self._release_children([row.id for row in rows if row.state == "completed"])
        self._cancel_descendants([row.id for row in rows if row.state in FAILED])
        if not keep_completed:
            for row in rows:
                if row.state == "completed" and not row.awaited:
                    del self.jobs[row.id]
        return busy

    def _end(self, row: JobRow, ending: Ending, error_cap: int) -> None:
        match ending:
            case Succeed(result=result):
                row.state = "completed"
                row.completed_at = self.now
                row.result = result
                self._announce(row)
            case Fail(text=text, retry_in=wait):
                self._fail(row, f"ValueError: {text}", f"ValueError: {text}\n", wait, error_cap)
            case TimeOut(limit=limit, retry_in=wait):
                text = f"JobTimeoutError: timed out after {limit} s"
                self._fail(row, text, f"roost.{text}\n", wait, error_cap)
            case RetryItself(reason=text, seconds=wait):
                text = f"RetryJob: {text}"
                self._fail(row, text, f"roost.{text}\n", wait, error_cap)
            case FailForGood(text=text):
                self._discard(row, f"ValueError: {text}", f"ValueError: {text}\n", error_cap)
            case DiscardItself(reason=text):
                text = f"DiscardJob: {text}"
                self._discard(row, text, f"roost.{text}\n", error_cap)
            case CancelItself(reason=text):
                text = f"CancelJob: {text}"
                self._record(row, text, f"roost.{text}\n", error_cap, **self._attempt(row))
                self._cancel(row)
            case Snooze(seconds=seconds):
                self._release(row, in_seconds=seconds)
            case Release():
                self._release(row)
            case Cancel():
                self._cancel(row)
            case _:
                assert_never(ending)
