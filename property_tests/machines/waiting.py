"""Waiters of one client on one listening connection: they come, leave together, and are all told.

One of them listens for all. When it leaves, another one must go on, also if several leave at once.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import anyio
import attrs
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from property_tests.lanes.database import Server
from property_tests.lanes.faults import Fault
from property_tests.lanes.simulation import Simulation

from roost import JobInsert
from roost._client.waiting import Waiting
from roost._drivers.base import run, run_sync
from roost._model.encoding import encode_batch
from roost._model.info import JobOutcome
from roost._ops.enqueue import insert_batch
from roost._ops.query import Query
from roost._ops.read import await_outcome
from roost._sql import Statement

POLL = 60.0
"""Seconds after which a waiter looks by itself."""
SOON = 0.5
some_calls = st.sets(st.integers(0, 5), min_size=1, max_size=3)
pauses = st.sampled_from([0.0, 0.01, SOON])
END = """
with ended as (
    update roost.jobs
    set state = 'completed', completed_at = now(), result = '7'
    where id = any ($1::bigint[]) and state = 'available'
    returning id
)
select pg_notify('roost_finished', id::text)
from ended
"""


@attrs.define(eq=False)
class Call:
    """A call of ``wait_for`` that has not returned.

    :param told_after: from when on it must be told as soon as its job has ended.
    """

    job_id: int
    told_after: float
    scope: anyio.CancelScope = attrs.field(factory=anyio.CancelScope)


class Waiters(RuleBasedStateMachine):
    """One client whose calls wait for jobs, each for one of its own."""

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.calls: list[Call] = []
        self.ended_at: dict[int, float] = {}

    @initialize(seed=st.integers(0, 255))
    def begin(self, seed: int) -> None:
        self.simulation = Simulation(self.server, seed=seed)
        driver = self.simulation.network.driver("client")
        self.pool = driver.pool(max_size=10, application_name="roost")
        self.waiting = Waiting(driver)
        self.wait_for(4, SOON)

    @rule(count=st.integers(1, 3), pause=pauses)
    def wait_for(self, count: int, pause: float) -> None:
        """Add jobs and wait for each."""

        def start() -> None:
            batch = encode_batch([JobInsert("work") for _ in range(count)])
            for job_id in run_sync(self.server.shared.real, insert_batch(batch)):
                call = Call(job_id, self.simulation.now)
                self.calls.append(call)
                self.simulation.group.start_soon(self._call, call)

        self.do(start)
        self.time_passes(pause)

    @precondition(lambda self: self.calls)
    @rule(some=some_calls, pause=pauses)
    def leave(self, some: set[int], pause: float) -> None:
        """Cancel some of the calls at once."""
        leaving = self.some_of(some)

        def cancel() -> None:
            for call in leaving:
                call.scope.cancel()

        self.do(cancel)
        self.time_passes(pause)

    @precondition(lambda self: self.calls)
    @rule(some=some_calls, pause=pauses)
    def end_jobs(self, some: set[int], pause: float) -> None:
        self.end([call.job_id for call in self.some_of(some)])
        self.time_passes(pause)

    def listening(self) -> int:
        """Return which of the calls listens for all."""
        [number] = [
            number
            for number, call in enumerate(self.calls)
            if self.waiting._receiver is not None and call.job_id == self.waiting._receiver.job_id
        ]
        return number

    def some_of(self, numbers: set[int]) -> list[Call]:
        return [call for number, call in enumerate(self.calls) if number in numbers]

    def end(self, ids: list[int]) -> None:
        def end() -> None:
            self.server.shared.fetch(Query(Statement("simulation", END), (ids,)))
            self.simulation.faults.changed()
            for job_id in ids:
                self.ended_at.setdefault(job_id, self.simulation.now)

        self.do(end)

    def time_passes(self, seconds: float) -> None:
        self.simulation.do(lambda: anyio.sleep(seconds))

    @rule(seconds=st.sampled_from([0.01, 1.0]))
    def lose_the_connection(self, seconds: float) -> None:
        fault = Fault("deaf", "client")
        self.do(lambda: self.simulation.faults.begin(fault))
        self.time_passes(seconds)
        self.do(lambda: self.simulation.faults.end(fault))
        for call in self.calls:
            call.told_after = self.simulation.now + POLL

    @invariant()
    def whoever_waits_is_told(self) -> None:
        if not hasattr(self, "simulation"):
            return
        now = self.simulation.now
        for call in self.calls:
            ended_at = self.ended_at.get(call.job_id, math.inf)
            told_by = max(ended_at, call.told_after) + SOON
            assert now < told_by, f"job {call.job_id} has ended, and its waiter waits"

    def teardown(self) -> None:
        if not hasattr(self, "simulation"):
            return
        try:
            self.end([call.job_id for call in self.calls])
            self.time_passes(SOON)
            self.whoever_waits_is_told()
            self.time_passes(POLL + SOON)
            self.whoever_waits_is_told()
        finally:
            self.simulation.close()

    async def _call(self, call: Call) -> None:
        async def look() -> JobOutcome | None:
            async with self.pool.acquire() as connection:
                return await run(connection, await_outcome(call.job_id))

        try:
            with call.scope:
                await self.waiting.wait(call.job_id, look, timeout=math.inf, poll_interval=POLL)
        finally:
            self.calls.remove(call)

    def do(self, step: Callable[[], object]) -> None:
        async def once() -> None:
            step()

        self.simulation.do(once)
