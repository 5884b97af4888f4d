"""Cron: two workers with different modules start, fire, stop halfway and are replaced.

At each start a worker may have other code: older, newer, or the same again. Entries are also added,
replaced and removed at run time. Each statement of a worker's call is a rule, so any other event
may happen between two statements. The clock is set forward and back.
"""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from typing import Any

import attrs
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from property_tests.oracle.cron import PERIODS, STALE_AFTER, CronModel, Declared, Seen
from tests.support.cron_table import START, CronTable, declaration, declare, fire_due

from roost import CronEntry
from roost._ops import cron
from roost._ops.query import Op, Query
from roost.exceptions import CronDeclaredError, CronNotFoundError

MODULES = {"first": ("a", "both"), "second": ("b", "both")}
"""What each worker's code declares."""
WORKERS = st.sampled_from(sorted(MODULES))
NAMES = st.sampled_from(["a", "b", "both", "added", "undeclared"])
ADDED = st.sampled_from(["a", "added", "added"])
STEPS = (0.5, 7, 9, 9, 20, 60, 60, 61, 300, 4000)
BACK = (20, 60, 4000)


@attrs.define
class Call:
    """A worker's call to fire entries, after its first statement."""

    operation: Op[Any]
    query: Query
    seen: list[Seen]


@attrs.define
class Start:
    """A worker's start, after it has read the time and before it declares its entries."""

    operation: Op[Any]
    query: Query
    declared: list[Declared]
    read_at: datetime


class Cron(RuleBasedStateMachine):
    """One example: a life that begins without entries.

    :param dsn: a database with Roost's schema and a clock that can be set; it is emptied.
    """

    def __init__(self, dsn: str) -> None:
        super().__init__()
        self._dsn = dsn
        self.model = CronModel()
        self.now = START
        self.went_back = False
        self.calls: dict[str, Call] = {}
        self.starts: dict[str, Start] = {}
        self.first_read: dict[str, datetime] = {}
        self.running: dict[str, list[Declared]] = {}
        self.lives = dict.fromkeys(MODULES, 0)
        self.may_repeat: set[str] = set()
        self.worker_tables = {name: CronTable(dsn) for name in MODULES}
        self.admin_table = CronTable(dsn)
        self.admin_table.script(
            "truncate roost.cron, roost.cron_declarations, roost.jobs restart identity"
        )

    def teardown(self) -> None:
        for table in (*self.worker_tables.values(), self.admin_table):
            table.connection.close()

    # Starting

    @initialize(data=st.data())
    def begin_with_both(self, data: st.DataObject) -> None:
        for worker in MODULES:
            self.ask_for_the_time(worker, data)
            self.declare(data)

    @rule(worker=WORKERS, data=st.data())
    def ask_for_the_time(self, worker: str, data: st.DataObject) -> None:
        declared = [data.draw(entries(name)) for name in MODULES[worker]]
        operation = declare(
            [declaration(entry_of(one)) for one in declared], worker=self.life(worker)
        )
        query = operation.send(self.worker_tables[worker].connection.fetch(next(operation)))
        self.starts[worker] = Start(operation, query, declared, self.now)

    @precondition(lambda self: self.starts)
    @rule(data=st.data())
    def declare(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.starts)))
        start = self.starts.pop(worker)
        self.worker_tables[worker].finish(start.operation, start.query)
        self.model.declare(start.declared, start.read_at, now=self.now, worker=self.life(worker))
        self.running[worker] = start.declared
        for one in start.declared:
            self.first_read.setdefault(one.name, start.read_at)
            if one.run_on_start:  # a start may be at the time of a tick
                self.may_repeat.add(one.name)

    def life(self, worker: str) -> str:
        """Return what identifies the worker until it dies."""
        return f"{worker} {self.lives[worker]}"

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def renew(self, data: st.DataObject) -> None:
        worker = data.draw(st.sampled_from(sorted(self.running)))
        own = self.running[worker]
        operation = cron.renew_declared(
            [declaration(entry_of(one)) for one in own], worker=self.life(worker)
        )
        again = self.worker_tables[worker].run(operation)
        assert again == self.model.renew(own, now=self.now, worker=self.life(worker))

    @rule(worker=WORKERS)
    def stop(self, worker: str) -> None:
        operation = cron.withdraw(MODULES[worker], worker=self.life(worker))
        self.worker_tables[worker].run(operation)
        self.model.withdraw(self.life(worker))

    # Run time

    @rule(name=ADDED, data=st.data())
    def add(self, name: str, data: st.DataObject) -> None:
        new = attrs.evolve(data.draw(entries(name)), run_on_start=False)
        self.first_read.setdefault(name, self.now)
        assert said(lambda: self.admin_table.add_entry(entry_of(new))) == said(
            lambda: self.model.add(new, self.now)
        )

    @rule(name=NAMES)
    def remove(self, name: str) -> None:
        operation = cron.remove(name, stale_after=STALE_AFTER.total_seconds())
        found = said(lambda: self.admin_table.run(operation))
        assert found == said(lambda: self.model.remove(name, self.now))
        if found is True:  # a worker that asked for the time before may declare it with old ticks
            self.may_repeat.add(name)

    # Firing

    @precondition(lambda self: self.model.entries)
    @rule(worker=WORKERS)
    def look(self, worker: str) -> None:
        names = MODULES[worker]
        operation = fire_due(names, tasks=["work"])
        rows = self.worker_tables[worker].connection.fetch(next(operation))
        seen = self.model.read_due(names, self.now)
        assert bool(rows) is bool(seen)
        if rows:
            self.calls[worker] = Call(operation, operation.send(rows), seen)

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def fire(self, data: st.DataObject) -> None:
        self._fire(data.draw(st.sampled_from(sorted(self.calls))))

    def _fire(self, worker: str) -> None:
        call = self.calls.pop(worker)
        fired = self.worker_tables[worker].finish(call.operation, call.query)
        assert fired.job_ids == self.model.fire(call.seen)

    @rule(worker=WORKERS)
    def look_and_fire(self, worker: str) -> None:
        seen = self.model.read_due(MODULES[worker], self.now)
        fired = self.worker_tables[worker].fire(*MODULES[worker], tasks=["work"])
        assert fired == self.model.fire(seen)

    @rule(worker=WORKERS)
    def fire_a_little_late(self, worker: str) -> None:
        self.look_and_fire(worker)
        self._set_clock(self.now + timedelta(seconds=9))
        self.look_and_fire(worker)

    @precondition(lambda self: self.model.entries)
    @rule(worker=WORKERS, change=st.sampled_from(["pause", "resume", "fire"]), data=st.data())
    def fire_while_entries_change(self, worker: str, change: str, data: st.DataObject) -> None:
        self._set_clock(self.now + timedelta(minutes=1))
        self.look(worker)
        if change == "fire":
            self.look_and_fire(data.draw(WORKERS))
        else:
            self.call_admin_verb("pause", data.draw(st.sampled_from(sorted(self.model.entries))))
        if change == "resume":
            for name in sorted(self.model.entries):
                self.call_admin_verb("resume", name)
        if worker in self.calls:
            self._fire(worker)

    @rule(worker=WORKERS)
    def die(self, worker: str) -> None:
        """Drop the worker's unfinished calls and replace its connection."""
        self.calls.pop(worker, None)
        self.starts.pop(worker, None)
        self.running.pop(worker, None)
        self.lives[worker] += 1
        self.worker_tables[worker].connection.close()
        self.worker_tables[worker] = CronTable(self._dsn)
        self.worker_tables[worker].clock(self.now)

    # Admin verbs and running jobs

    @rule(verb=st.sampled_from(["pause", "resume", "resume", "run_now"]), name=NAMES)
    def call_admin_verb(self, verb: str, name: str) -> None:
        operation: dict[str, Op[Any]] = {
            "pause": cron.pause(name),
            "resume": cron.resume(name),
            "run_now": cron.run_now(name),
        }
        says = {
            "pause": lambda: self.model.pause(name, self.now),
            "resume": lambda: self.model.resume(name, self.now),
            "run_now": lambda: self.model.run_now(name),
        }
        assert said(lambda: self.admin_table.run(operation[verb])) == said(says[verb])

    @precondition(lambda self: self.model.jobs)
    @rule(data=st.data(), state=st.sampled_from(["executing", "completed", "completed"]))
    def work(self, data: st.DataObject, state: str) -> None:
        job = self.model.jobs[data.draw(st.integers(0, len(self.model.jobs) - 1))]
        job.state = state
        ended = "now()" if state == "completed" else "null"
        self.admin_table.change(job.id, f"state = '{state}', completed_at = {ended}")

    # The clock

    @rule(seconds=st.sampled_from(STEPS))
    def pass_time(self, seconds: float) -> None:
        self._set_clock(self.now + timedelta(seconds=seconds))

    @rule(seconds=st.sampled_from(BACK))
    def set_the_clock_back(self, seconds: int) -> None:
        self.went_back = True
        self._set_clock(self.now - timedelta(seconds=seconds))

    def _set_clock(self, now: datetime) -> None:
        self.now = now
        for table in (*self.worker_tables.values(), self.admin_table):
            table.clock(now)

    # The invariant

    @invariant()
    def tables_equal_the_model(self) -> None:
        entries = {
            info.name: (
                Declared(
                    info.name,
                    info.expression,
                    info.timezone_name,
                    info.misfire,
                    info.overlap,
                    info.run_on_start,
                ),
                info.source,
                info.stale,
                info.next_tick_at,
                info.last_tick_at,
                info.last_job_id,
                info.paused_at,
            )
            for info in self.admin_table.entries()
        }
        assert entries == {
            name: (
                entry.declared,
                "database" if entry.order is None else "code",
                self.model.is_stale(name, self.now),
                entry.next_tick_at,
                entry.last_tick_at,
                entry.last_job_id,
                entry.paused_at,
            )
            for name, entry in self.model.entries.items()
        }
        jobs = self.admin_table.rows(
            "select id, metadata ->> 'cron', (metadata ->> 'tick')::timestamptz, state "
            "from roost.jobs order by id"
        )
        assert jobs == [(job.id, job.entry, job.tick, job.state) for job in self.model.jobs]
        self._check_ticks(Counter((name, tick) for _, name, tick, _ in jobs if tick is not None))

    def _check_ticks(self, ticks: Counter[tuple[str, datetime]]) -> None:
        """Check, without the model: one job a tick, no tick before the first declaration."""
        if self.went_back:  # a clock that was set back shows some times twice
            return
        for (name, tick), count in ticks.items():
            if name in self.may_repeat:
                continue
            assert count == 1, f"{name} fired {tick} {count} times"
            assert self.first_read[name] < tick <= self.now


def entries(name: str) -> st.SearchStrategy[Declared]:
    """Return declarations of an entry."""
    return st.builds(
        Declared,
        st.just(name),
        st.sampled_from(sorted(PERIODS)),
        st.sampled_from([None, None, "Europe/Berlin"]),
        st.sampled_from(["skip", "last", "last", "all"]),
        st.sampled_from(["allow", "allow", "skip"]),
        st.sampled_from([False, False, True]),
    )


def entry_of(declared: Declared) -> CronEntry:
    return CronEntry(
        declared.name,
        declared.expression,
        "work",
        timezone_name=declared.zone,
        misfire=declared.misfire,  # type: ignore[arg-type]  # one of the Literal's words
        overlap=declared.overlap,  # type: ignore[arg-type]  # the same
        run_on_start=declared.run_on_start,
    )


def said(call: Any) -> object:
    """Return a call's answer, or its refusal: the text if no entry has the name."""
    try:
        return call()
    except CronNotFoundError as error:
        return str(error)
    except CronDeclaredError as error:
        return type(error)
