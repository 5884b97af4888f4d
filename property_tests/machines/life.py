"""The life of jobs: every verb, in any order, by workers that live and workers that have died.

Each rule makes one call to the model and to Roost. The answers, errors and notifications must be
the same, and after every step every column of every table too.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    MultipleResults,
    RuleBasedStateMachine,
    initialize,
    invariant,
    multiple,
    precondition,
    rule,
)
from property_tests import invariants, strategies
from property_tests.model import Model
from property_tests.oracle.tables import place_of
from property_tests.real import Real
from property_tests.words import Call, Claim, End, Ending, Grant, Leased, NewJob, Succeed

from roost._model.states import TERMINAL, JobState
from roost._ops.claim import Position
from roost.exceptions import RoostError

SETTLES = {JobState.EXECUTING}
DELETES = {
    "delete_ended": TERMINAL,
    "delete": set(JobState) - {JobState.EXECUTING},
    "settle": SETTLES,
    "both_at_once": SETTLES,
}
"""The verbs that may delete a job, with the states in which it may have been."""


class Life(RuleBasedStateMachine):
    """One example: a life that begins with empty tables.

    :param real: the database; it is emptied.
    """

    def __init__(self, real: Real) -> None:
        super().__init__()
        self.model = Model()
        self.real = real
        real.reset()
        self.before = real.tables()
        self.last_verb = ""
        self.given: list[Grant] = []

    # Ids and leases are never removed: dead workers and late settles go on calling.
    jobs = Bundle("jobs")
    workers = Bundle("workers")
    grants = Bundle("grants")

    # Each rule is drawn about equally often. So frequent verbs have a rule of their own, and rare
    # verbs share one.

    @initialize(
        target=workers,
        has_credit=st.booleans(),
        others=st.lists(strategies.queues(), max_size=1),
    )
    def begin_with_workers(self, has_credit: bool, others: list[list[str]]) -> MultipleResults[int]:
        first = self.registered(strategies.QUEUES, 60)
        if has_credit:
            self.both(strategies.credit_for(first))
        return multiple(first, *(self.registered(queues, 60) for queues in others))

    @initialize(
        target=jobs,
        jobs=st.lists(strategies.plain_jobs(), min_size=2, max_size=4),
        children=st.lists(strategies.new_jobs(), max_size=2),
    )
    def begin_with_jobs(self, jobs: list[NewJob], children: list[NewJob]) -> MultipleResults[int]:
        """Add some jobs, perhaps a child of the first two, and perhaps a child of that."""
        ids: list[int] = self.both(Call("enqueue_many", {"jobs": jobs}))
        parents = ids[:2]
        for job in children:
            child = attrs.evolve(job, depends_on=parents, unique_key=None)
            parents = [self.both(Call("enqueue", {"job": child}))]
            ids += parents
        return multiple(*ids)

    # Enqueue

    @rule(target=jobs, job=strategies.jobs_with_parents(jobs))
    def enqueue(self, job: NewJob) -> MultipleResults[int]:
        return _ids(self.both(Call("enqueue", {"job": job})))

    @rule(
        target=jobs,
        verb=st.sampled_from(["enqueue_many", "enqueue_many", "enqueue_and_roll_back"]),
        jobs=st.lists(strategies.jobs_with_parents(jobs), min_size=1, max_size=4),
    )
    def enqueue_many(self, verb: str, jobs: list[NewJob]) -> MultipleResults[int]:
        return _ids(self.both(Call(verb, {"jobs": jobs})))

    @rule(
        target=jobs,
        job=strategies.new_jobs(),
        keys=st.lists(st.none() | st.sampled_from(strategies.KEYS), min_size=1, max_size=3),
    )
    def enqueue_homogeneous_jobs(self, job: NewJob, keys: list[str | None]) -> MultipleResults[int]:
        jobs = [
            attrs.evolve(job, unique_key=key, args={"number": number})
            for number, key in enumerate(keys)
        ]
        return _ids(self.both(Call("enqueue_many", {"jobs": jobs})))

    @rule(
        target=jobs,
        jobs=st.lists(strategies.unique_jobs(jobs), min_size=1, max_size=3),
        on_conflict=st.sampled_from(["skip", "raise", "return", "replace", "replace"]),
    )
    def enqueue_unique(self, jobs: list[NewJob], on_conflict: str) -> MultipleResults[int]:
        if on_conflict == "replace":
            jobs = [attrs.evolve(job, depends_on=None) for job in jobs]
        call = Call("enqueue_unique", {"jobs": jobs, "on_conflict": on_conflict})
        return _ids(self.both(call))

    @rule(target=jobs, job=strategies.new_jobs())
    def enqueue_in_sql(self, job: NewJob) -> MultipleResults[int]:
        return _ids(self.both(Call("enqueue_in_sql", {"job": job})))

    # Dispatch

    @rule(target=jobs, call=strategies.enqueues_alone())
    def enqueue_alone(self, call: Call) -> MultipleResults[int]:
        self.break_ties()
        return _ids(self.both(call))

    @precondition(lambda self: self.model.workers)
    @rule(target=jobs, data=st.data(), call=strategies.enqueues_to_dispatch())
    def grant_credit_and_enqueue(self, data: st.DataObject, call: Call) -> MultipleResults[int]:
        """Grant credit to one or two workers, then enqueue a job."""
        living = st.sampled_from(sorted(self.model.workers))
        for worker_id in data.draw(st.lists(living, min_size=1, max_size=2, unique=True)):
            wants_notify = data.draw(st.booleans())
            self.both(
                Call("set_wants_notify", {"worker_id": worker_id, "wants_notify": wants_notify})
            )
            self.both(data.draw(strategies.credit_grants(st.just(worker_id))))
        self.break_ties()
        self.tables_equal_the_model()
        return _ids(self.both(call))

    # Claim and settle

    @precondition(lambda self: self.model.workers)
    @rule(target=grants, data=st.data(), limit=st.integers(1, 3))
    def claim_greedily(self, data: st.DataObject, limit: int) -> MultipleResults[Grant]:
        living = st.sampled_from(sorted(self.model.workers))
        return self.granted(self.both(data.draw(strategies.greedy_claims(living, limit))))

    @rule(target=grants, call=strategies.claims(workers))
    def claim(self, call: Call) -> MultipleResults[Grant]:
        return self.granted(self.both(call))

    @precondition(lambda self: self.model.workers and self.model.jobs)
    @rule(target=grants, data=st.data(), limit=st.integers(1, 3))
    def claim_behind_a_job(self, data: st.DataObject, limit: int) -> MultipleResults[Grant]:
        """Claim behind the position of an earlier claim, in some queues and priorities."""
        living = st.sampled_from(sorted(self.model.workers))
        call = data.draw(strategies.greedy_claims(living, limit))
        last = data.draw(st.lists(st.sampled_from(sorted(self.model.jobs)), min_size=1, max_size=3))
        rows = [self.model.jobs[job_id] for job_id in last]
        after = {
            (row.queue, row.priority): Position(row.queue, row.priority, row.scheduled_at, row.id)
            for row in rows
        }
        words = {**call.parameters, "after": list(after.values())}
        return self.granted(self.both(Call("claim", words)))

    @precondition(lambda self: self.model.held())
    @rule(data=st.data())
    def settle_some_held(self, data: st.DataObject) -> None:
        held = st.sampled_from(self.model.held())
        self.both(data.draw(strategies.settles(held) | strategies.metadata(held)))

    @precondition(lambda self: self.model.held())
    @rule(
        ending=st.just(Succeed(None)) | strategies.endings(),
        error_cap=strategies.error_caps(),
        keep_completed=st.booleans(),
    )
    def settle_all_held(self, ending: Ending, error_cap: int, keep_completed: bool) -> None:
        ends = [End(grant, ending) for grant in self.model.held()]
        words = {"ends": ends, "error_cap": error_cap, "keep_completed": keep_completed}
        self.both(Call("settle", words))

    @precondition(lambda self: self.late())
    @rule(data=st.data())
    def settle_late(self, data: st.DataObject) -> None:
        late = data.draw(st.sampled_from(self.late()))
        ending = data.draw(st.just(Succeed(None)) | strategies.endings())
        self.both(Call("settle", {"ends": [End(late, ending)], "error_cap": 1}))

    @rule(call=strategies.settles(grants) | strategies.metadata(grants))
    def settle_any_lease(self, call: Call) -> None:
        self.both(call)

    # Two calls at once: the second passes over locked rows, or waits

    @rule(
        target=grants,
        first=st.one_of(
            strategies.claims(workers),
            strategies.settles(grants),
            strategies.rescues(),
            strategies.enqueues_of_children(jobs),
            strategies.enqueues_alone(),
        ),
        then=st.one_of(
            strategies.claims(workers),
            strategies.settles(grants),
            strategies.rescues(),
            strategies.expires(),
            strategies.enqueues_alone(),
            strategies.worker_updates(workers),
        ),
        first_commits=st.booleans(),
    )
    def both_at_once(self, first: Call, then: Call, first_commits: bool) -> MultipleResults[Grant]:
        self.break_ties()
        calls = {"first": first, "then": then, "first_commits": first_commits}
        answers = self.both(Call("both_at_once", calls))
        return self.granted(*(answers if first_commits else answers[1:]))

    @precondition(lambda self: self.model.held())
    @rule(data=st.data(), first_commits=st.booleans())
    def settle_what_another_call_holds(self, data: st.DataObject, first_commits: bool) -> None:
        held = self.model.held()
        settles = strategies.settles(st.sampled_from(held))
        settles |= strategies.metadata(st.sampled_from(held))
        parents = st.sampled_from([grant.lease.job_id for grant in held])
        calls = {
            "first": data.draw(settles | strategies.enqueues_of_children(parents)),
            "then": data.draw(settles),
            "first_commits": first_commits,
        }
        self.both(Call("both_at_once", calls))

    @precondition(lambda self: self.model.workers)
    @rule(target=grants, data=st.data(), limit=st.integers(1, 3), first_commits=st.booleans())
    def claim_greedily_twice(
        self, data: st.DataObject, limit: int, first_commits: bool
    ) -> MultipleResults[Grant]:
        living = st.sampled_from(sorted(self.model.workers))
        calls = {
            "first": data.draw(strategies.greedy_claims(living, 1)),
            "then": data.draw(strategies.greedy_claims(living, limit)),
            "first_commits": first_commits,
        }
        answers = self.both(Call("both_at_once", calls))
        return self.granted(*(answers if first_commits else answers[1:]))

    @precondition(lambda self: self.model.expired_workers())
    @rule(target=grants, data=st.data(), first_commits=st.booleans())
    def claim_while_expiring(
        self, data: st.DataObject, first_commits: bool
    ) -> MultipleResults[Grant]:
        expired = st.sampled_from(self.model.expired_workers())
        calls = {
            "first": data.draw(strategies.greedy_claims(expired, 2)),
            "then": Call("expire", {}),
            "first_commits": first_commits,
        }
        answers = self.both(Call("both_at_once", calls))
        return self.granted(*(answers if first_commits else answers[1:]))

    @precondition(lambda self: self.model.workers)
    @rule(
        target=grants,
        data=st.data(),
        enqueue=strategies.enqueues_to_dispatch(),
        goes_first=st.booleans(),
        first_commits=st.booleans(),
    )
    def write_beside_a_dispatch(
        self, data: st.DataObject, enqueue: Call, goes_first: bool, first_commits: bool
    ) -> MultipleResults[Grant]:
        worker_id = data.draw(st.sampled_from(sorted(self.model.workers)))
        wants_notify = data.draw(st.booleans())
        self.both(Call("set_wants_notify", {"worker_id": worker_id, "wants_notify": wants_notify}))
        self.both(strategies.credit_for(worker_id))
        self.break_ties()
        self.tables_equal_the_model()
        worker = st.just(worker_id)
        others = st.one_of(
            strategies.worker_updates(worker),
            strategies.worker_updates(worker),
            strategies.releases(worker),
            strategies.greedy_claims(worker, 1),
            strategies.enqueues_to_dispatch(),
            strategies.expires(),
        )
        other = data.draw(others)
        calls = {
            "first": enqueue if goes_first else other,
            "then": other if goes_first else enqueue,
            "first_commits": first_commits,
        }
        answers = self.both(Call("both_at_once", calls))
        return self.granted(*(answers if first_commits else answers[1:]))

    # Workers register, renew, end and die; others rescue their jobs

    @precondition(lambda self: len(self.model.workers) < strategies.MOST_WORKERS)
    @rule(
        target=workers,
        queues=strategies.queues(),
        stale_after=st.sampled_from(strategies.STALE_AFTER),
    )
    def register(self, queues: list[str], stale_after: int) -> int:
        return self.registered(queues, stale_after)

    @rule(call=strategies.worker_updates(workers))
    def update_worker(self, call: Call) -> None:
        self.both(call)

    @rule(
        target=grants,
        worker_id=workers,
        held=st.lists(grants, max_size=2),
    )
    def release_unheld(self, worker_id: int, held: list[Grant]) -> MultipleResults[Grant]:
        known = [grant.lease for grant in held]
        call = Call("release_unheld", {"worker_id": worker_id, "held": known})
        return self.granted(self.both(call))

    @rule(target=grants, call=strategies.dispatches(workers))
    def accept_or_take_over(self, call: Call) -> MultipleResults[Grant]:
        return self.granted(self.both(call))

    @precondition(lambda self: self.model.unaccepted())
    @rule(target=grants, data=st.data())
    def accept_or_take_over_unaccepted(self, data: st.DataObject) -> MultipleResults[Grant]:
        living = st.sampled_from(sorted(self.model.workers))
        return self.granted(self.both(data.draw(strategies.dispatches(living))))

    @precondition(lambda self: self.model.held())
    @rule(data=st.data())
    def forget_with_jobs_held(self, data: st.DataObject) -> None:
        holder = data.draw(st.sampled_from([grant.lease.worker_id for grant in self.model.held()]))
        self.both(Call("forget", {"worker_id": holder}))

    @precondition(lambda self: self.model.prefetched())
    @rule(data=st.data())
    def start_prefetched(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.model.prefetched()))
        words = {"worker_id": row.worker_id, "through": place_of(row)}
        self.both(Call("mark_started", words))

    @precondition(lambda self: self.model.orphans())
    @rule(call=strategies.rescues())
    def rescue_orphans(self, call: Call) -> None:
        self.both(call)

    @rule(call=strategies.expires() | strategies.rescues())
    def expire_and_rescue(self, call: Call) -> None:
        self.both(call)

    @rule(call=strategies.archiving())
    def archive_and_forget(self, call: Call) -> None:
        self.both(call)

    # Control

    @rule(job_id=jobs)
    def cancel(self, job_id: int) -> None:
        self.both(Call("cancel", {"job_id": job_id}))

    @rule(job_id=jobs)
    def retry(self, job_id: int) -> None:
        self.both(Call("retry", {"job_id": job_id}))

    @rule(call=strategies.steering(jobs))
    def steer(self, call: Call) -> None:
        self.both(call)

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data())
    def steer_a_live_job(self, data: st.DataObject) -> None:
        self.both(data.draw(strategies.steering(st.sampled_from(sorted(self.model.jobs)))))

    @rule(job_id=jobs)
    def await_outcome(self, job_id: int) -> None:
        self.both(Call("await_outcome", {"job_id": job_id}))

    @rule(call=strategies.control())
    def control(self, call: Call) -> None:
        self.both(call)

    # Time, connections and reads

    @rule(seconds=st.sampled_from(strategies.STEPS))
    def pass_time(self, seconds: int) -> None:
        self.both(Call("pass_time", {"seconds": seconds}))

    @rule()
    def explain_all(self) -> None:
        self.both(Call("explain_all", {}))

    @rule(call=strategies.reads(jobs, workers))
    def look(self, call: Call) -> None:
        self.both(call)

    # The invariant

    @invariant()
    def tables_equal_the_model(self) -> None:
        after = self.real.tables()
        invariants.check(
            self.before,
            after,
            error_cap=strategies.MOST_ERRORS,
            revived=self.last_verb in ("retry", "requeue_discarded"),
            deleted=DELETES.get(self.last_verb, ()),
            replaced=self.last_verb in ("enqueue_unique", "update"),
        )
        self.before = after
        differences = list(_differences(after, self.model.tables()))
        assert not differences, "\n".join(differences)

    def registered(self, queues: list[str], stale_after: int) -> int:
        """Add a worker and return its id."""
        worker = {"name": "worker", "queues": queues, "stale_after": stale_after}
        number: int = self.both(Call("register", worker))
        return number

    def break_ties(self) -> None:
        """Send heartbeats until no two workers with credit have the same heartbeat time.

        An enqueue dispatches to the worker with the newest heartbeat. With a tie it may be either.
        """
        by_heartbeat = {worker.heartbeat_at: worker for worker in self.model.with_credit()}
        for worker in self.model.with_credit():
            if worker is not by_heartbeat[worker.heartbeat_at]:
                self.both(Call("pass_time", {"seconds": 1}))
                self.both(Call("renew", {"worker_id": worker.id, "stale_after": 60}))

    def granted(self, *answers: object) -> MultipleResults[Grant]:
        """Return the leases among ``answers`` for the bundle."""
        grants: list[Grant] = []
        for answer in answers:
            if isinstance(answer, Claim):
                invariants.check_order(answer.jobs)
                grants += answer.grants
            elif isinstance(answer, list):
                grants += [leased.grant for leased in answer if isinstance(leased, Leased)]
            elif isinstance(answer, Leased):
                grants.append(answer.grant)
        self.given += grants
        return multiple(*grants)

    def late(self) -> list[Grant]:
        """Return lost leases whose job runs again, preferably on the same worker."""
        held = {grant.lease.job_id: grant for grant in self.model.held()}
        late = [
            grant
            for grant in self.given
            if grant.lease.job_id in held and grant not in held.values()
        ]
        again = [
            grant
            for grant in late
            if grant.lease.worker_id == held[grant.lease.job_id].lease.worker_id
        ]
        return again or late

    def both(self, call: Call) -> Any:
        """Make the call to both, compare, and return Roost's answer or error."""
        self.last_verb = call.verb
        expected, answer = _answer_of(self.model, call), _answer_of(self.real, call)
        assert answer == expected, f"Roost answered {answer}, the model {expected}"
        notified, self.real.notified = self.real.notified, set()
        expected_notified, self.model.notified = self.model.notified, set()
        assert notified == expected_notified, (
            f"Roost notified {notified}, the model {expected_notified}"
        )
        dispatched, self.real.dispatched = self.real.dispatched, []
        expected_dispatched, self.model.dispatched = self.model.dispatched, []
        assert dispatched == expected_dispatched, (
            f"Roost dispatched {dispatched}, the model {expected_dispatched}"
        )
        return answer


def _ids(answer: object) -> MultipleResults[int]:
    """Return the new ids for the bundle: one, several, or none after an error."""
    if isinstance(answer, int):
        return multiple(answer)
    ids = answer if isinstance(answer, list) else []
    return multiple(*(job_id for job_id in ids if job_id is not None))


def _answer_of(to: Model | Real, call: Call) -> object:
    try:
        return to.say(call)
    except RoostError as error:
        return type(error), error.args


def _differences(
    real: dict[str, list[dict[str, Any]]], model: dict[str, list[dict[str, Any]]]
) -> Iterator[str]:
    for table in sorted(real.keys() | model.keys()):
        rows, expected = real.get(table, []), model.get(table, [])
        if len(rows) != len(expected):
            yield f"{table}: Roost has {len(rows)} rows, the model {len(expected)}"
        for row, its in zip(rows, expected, strict=False):
            for column in sorted(row.keys() | its.keys()):
                if row.get(column, "no column") != its.get(column, "no column"):
                    yield (
                        f"{table} {row.get('id')}: {column} is {row.get(column, 'no column')!r}, "
                        f"in the model {its.get(column, 'no column')!r}"
                    )
