"""The model: the contents of Roost's tables and the answers of its operations, in plain Python.

It has the verbs of `property_tests.real.Real`, with the same parameters and the same answers. It
uses no SQL and no Hypothesis. Of Roost it uses leases and error classes only: every decision is
written a second time here.
"""

from __future__ import annotations

import copy
from collections.abc import Collection

from property_tests.oracle.archive import Archive
from property_tests.oracle.claim import Claims
from property_tests.oracle.control import Control
from property_tests.oracle.dispatch import Dispatch
from property_tests.oracle.read import Read
from property_tests.oracle.rescue import Rescue
from property_tests.oracle.settle import Settle
from property_tests.oracle.steer import Steer
from property_tests.oracle.tables import ACTIVE, Held, Waits
from property_tests.oracle.unique import Unique
from property_tests.words import Call

from roost.exceptions import DuplicateUniqueJobError


class Model(Dispatch, Unique, Claims, Settle, Control, Steer, Rescue, Archive, Read):
    """All verbs on one set of tables, one at a time or two at once."""

    def both_at_once(
        self, *, first: Call, then: Call, first_commits: bool
    ) -> tuple[object, object]:
        """Make the call ``then`` after ``first`` has written and before it commits.

        ``then`` sees nothing of ``first`` and passes over the rows that it holds. If it can't, its
        answer is "waits".

        :returns: both answers.
        """
        uncommitted = copy.deepcopy(self)
        try:
            answer = uncommitted.say(first)
        finally:
            self.last_job = uncommitted.last_job  # a sequence knows no rollback
        jobs = {
            job_id: row for job_id, row in uncommitted.jobs.items() if row != self.jobs.get(job_id)
        }
        deleted = self.jobs.keys() - uncommitted.jobs.keys()
        workers = uncommitted._locks.changed_workers
        self._held = Held(
            jobs=uncommitted._locks.jobs | jobs.keys() | deleted,
            workers=uncommitted._locks.workers | workers,
            changed_workers=workers,
            keys=self._active_keys(jobs.keys() | deleted) | uncommitted._active_keys(jobs),
        )
        other_answer: object
        before = self.dependencies.copy()
        try:
            with self._all_or_nothing():
                other_answer = self.say(then)
        except Waits:
            other_answer = "waits"
        except DuplicateUniqueJobError as error:
            other_answer = error.args
        self._held = Held()
        if first_commits:
            self.jobs |= jobs
            for job_id in deleted:
                del self.jobs[job_id]
            for worker_id in workers:
                del self.workers[worker_id]
                if worker_id in uncommitted.workers:
                    self.workers[worker_id] = uncommitted.workers[worker_id]
            self.dependencies -= before - uncommitted.dependencies
            self.dependencies |= uncommitted.dependencies - before
            self.notified |= uncommitted.notified
            self.dispatched += uncommitted.dispatched
        return answer, other_answer

    def _active_keys(self, job_ids: Collection[int]) -> set[str | None]:
        rows = [self.jobs[job_id] for job_id in job_ids if job_id in self.jobs]
        return {row.unique_key for row in rows if row.state in ACTIVE} - {None}

    def say(self, call: Call) -> object:
        """Make the call and return its answer."""
        self._locks = Held()
        answer: object = getattr(self, call.verb)(**call.parameters)
        return answer
