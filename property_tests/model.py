"""The oracle: what Roost's tables must hold and its operations answer, in plain Python.

It has the verbs of `property_tests.real.Real`, with the same parameters and the same answers. No
SQL, no Hypothesis, and nothing of Roost but words: leases and error classes. What is decided here
is decided anew.
"""

from __future__ import annotations

import copy
from contextlib import suppress

from property_tests.oracle.claim import Claiming
from property_tests.oracle.control import Control
from property_tests.oracle.enqueue import Enqueue
from property_tests.oracle.inspect import Inspect
from property_tests.oracle.settle import Settle
from property_tests.oracle.tables import Held, Waits
from property_tests.oracle.upkeep import Upkeep
from property_tests.words import Call


class Model(Enqueue, Claiming, Settle, Control, Upkeep, Inspect):
    """All verbs on one set of tables, one at a time or two at once."""

    def both_at_once(
        self, *, first: Call, then: Call, first_commits: bool
    ) -> tuple[object, object]:
        """Make ``then`` while ``first`` has written and not committed; return both answers.

        ``then`` sees nothing of ``first`` and passes over what it holds; where it can't do that, it
        answers "waits".
        """
        beside = copy.deepcopy(self)
        try:
            answer = beside.say(first)
        finally:
            self.last_job = beside.last_job  # a sequence knows no rollback
        changed = {
            job_id: row for job_id, row in beside.jobs.items() if row != self.jobs.get(job_id)
        }
        self._held = Held(beside._locks.jobs | changed.keys(), beside._locks.workers)
        other_answer: object = "waits"
        before = self.dependencies.copy()
        with suppress(Waits), self._all_or_nothing():
            other_answer = self.say(then)
        self._held = Held()
        if first_commits:
            self.jobs |= changed
            self.dependencies -= before - beside.dependencies
            self.dependencies |= beside.dependencies - before
            self.woken |= beside.woken
        return answer, other_answer

    def say(self, call: Call) -> object:
        """Do what ``call`` says."""
        self._locks = Held()
        answer: object = getattr(self, call.verb)(**call.parameters)
        return answer
