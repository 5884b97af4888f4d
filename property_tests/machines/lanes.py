"""The lanes of workers on a real database: late answers, lost rows, lost connections, stops.

Each rule does something to one or two workers and lets some time pass. What handlers do is checked
when they do it (`Diary`), the rest after every rule and at the end (`World`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import anyio
import attrs
import trio.testing
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from property_tests.lanes.database import Server
from property_tests.lanes.diary import TASKS, Attempt
from property_tests.lanes.faults import CLAIMS, HEARTBEATS, MAINTENANCE, WORK, Fault, Kind
from property_tests.lanes.inserting import WAYS
from property_tests.lanes.simulation import Simulation
from property_tests.lanes.world import PROMPTLY, Settings, SimulatedWorker, World

MAINTENANCE_STARTS = 11.0
"""Seconds after which each lane of maintenance has begun a call."""
MOST_WORKERS = 2
MOST_RATED = 6
"""Jobs of "rated" in one example: the last of them starts three minutes after the first."""

Event = Literal["nothing", "lose row", "stop", "open gates", "enqueue", "cancel", "pause"]


@attrs.frozen
class Story:
    """What happens while a fault lasts: an enqueue, then something else.

    :param before: seconds from the fault's begin to the enqueue.
    :param after: seconds from there to the event.
    :param lasts: seconds from there to the fault's end.
    :param check: whether to wait until the worker has recovered and check that nothing waits.
    """

    task: str
    before: float = 0.01
    after: float = 0.01
    event: Event = "nothing"
    lasts: float = 2.0
    check: bool = False


EVENTS: tuple[Event, ...] = (
    *("nothing", "lose row", "stop", "open gates", "enqueue", "cancel", "pause"),
)
KINDS: tuple[Kind, ...] = ("late", "answered late", "answered late", "unsent", "unanswered")
LOSSES: tuple[Kind, ...] = ("deaf", "cut off")

tasks = st.sampled_from(TASKS)
moments = st.sampled_from([0.0, 0.002, 0.01, 0.3, 2.6])
"""Seconds between two events: within a call, within a heartbeat, after one."""
numbers = st.integers(0, MOST_WORKERS - 1)
"""Which worker."""
workers = st.builds(
    Settings,
    concurrency=st.integers(1, 3),
    prefetch=st.sampled_from([None, 0, 2]),
    grace=st.sampled_from([0.5, 2.0]),
    slots=st.none() | st.tuples(st.integers(1, 2), st.integers(1, 2)),
)
queues = st.sampled_from(["default", "default", "other"])
stories = st.builds(
    Story,
    task=tasks,
    before=moments,
    after=moments,
    event=st.sampled_from(EVENTS),
    # After 5 s other workers take its jobs over.
    lasts=st.sampled_from([0.01, 0.5, 2.0, 6.0]),
    check=st.booleans(),
)


class Lanes(RuleBasedStateMachine):
    """One example: some minutes in the life of one or two workers.

    :param server: its tables are emptied.
    """

    def __init__(self, server: Server) -> None:
        super().__init__()
        self.server = server
        self.rated = 0

    @initialize(seed=st.integers(0, 255), first=workers, second=st.none() | workers)
    def begin(self, seed: int, first: Settings, second: Settings | None) -> None:
        self.simulation = Simulation(self.server, seed=seed)
        self.world = self.simulation.do(self._world)
        self.do(lambda: self.world.start_worker(first))
        if second is not None:
            self.do(lambda: self.world.start_worker(second))
        self.wait(1.0)
        self.do(self.world.check)  # it notes the workers' ids

    # What users and operators do

    @rule(task=tasks, count=st.sampled_from([1, 1, 2, 5]), pause=moments, queue=queues)
    def enqueue(self, task: str, count: int, pause: float, queue: str = "default") -> None:
        self.add(task, count, queue)
        self.wait(pause)

    @precondition(lambda self: self.can_lock())
    @rule(
        way=st.sampled_from(WAYS),
        task=st.sampled_from(["quick", "gated"]),
        seconds=st.sampled_from([0.3, 3.0]),
    )
    def enqueue_in_a_long_transaction(self, way: str, task: str, seconds: float) -> None:
        self.do(self.world.begin_transaction)
        self.wait(seconds)
        self.do(lambda: self.world.enqueue_in_transaction(task, way))
        self.wait(seconds)
        self.do(self.world.commit)

    @precondition(lambda self: self.world.diary.running)
    @rule(some=st.lists(st.integers(0, 5), min_size=1, max_size=3), pause=moments)
    def open_gates(self, some: list[int], pause: float) -> None:
        attempts = [self.attempt(number) for number in some]
        self.do(lambda: self.world.open_gates(attempts))
        self.wait(pause)

    @precondition(lambda self: self.world.diary.running)
    @rule(number=st.integers(0, 5))
    def cancel(self, number: int) -> None:
        attempt = self.attempt(number)
        self.simulation.do(lambda: self.world.cancel(attempt))

    @precondition(lambda self: not self.world.wants_pause)
    @rule(pause=moments)
    def pause_the_queue(self, pause: float) -> None:
        self.do(self.world.pause)
        self.wait(pause)

    @precondition(lambda self: self.world.wants_pause)
    @rule(pause=moments)
    def resume_the_queue(self, pause: float) -> None:
        self.do(self.world.resume)
        self.wait(pause)

    @precondition(lambda self: len(self.world.living()) < MOST_WORKERS)
    @rule(worker=workers, pause=moments)
    def start_a_worker(self, worker: Settings, pause: float) -> None:
        self.do(lambda: self.world.start_worker(worker))
        self.wait(pause)

    @precondition(lambda self: self.world.living())
    @rule(number=numbers, pause=moments)
    def stop_a_worker(self, number: int, pause: float) -> None:
        worker = self.worker(number)
        self.do(lambda: self.world.stop(worker))
        self.wait(pause)

    @precondition(lambda self: self.world.living())
    @rule(
        number=numbers,
        change=st.sampled_from(["stop", "start", "resize"]),
        slots=st.integers(1, 3),
        pause=moments,
    )
    def change_a_queue(self, number: int, change: str, slots: int, pause: float) -> None:
        worker = self.worker(number)
        match change:
            case "stop":
                self.do(lambda: self.world.stop_queue(worker))
            case "start":
                self.do(lambda: self.world.start_queue(worker, slots))
            case _:
                self.do(lambda: self.world.resize_queue(worker, slots))
        self.wait(pause)

    @rule(seconds=st.sampled_from([0.3, PROMPTLY, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.wait(seconds)
        if seconds >= PROMPTLY:
            self.simulation.do(self.world.check_nothing_waits)

    @rule(seconds=st.sampled_from([0.0, 3.0]))
    def hooks_take(self, seconds: float) -> None:
        self.world.hook_seconds = seconds

    # What goes wrong

    @precondition(lambda self: self.world.living())
    @rule(number=numbers, pause=moments)
    def lose_a_row(self, number: int, pause: float) -> None:
        worker = self.worker(number)
        self.do(lambda: self.world.lose_row(worker))
        self.wait(pause)

    @precondition(lambda self: self.world.living())
    @rule(
        number=numbers,
        kind=st.sampled_from(KINDS),
        names=st.sampled_from([CLAIMS, CLAIMS, HEARTBEATS, ("settle.",), ()]),
        story=stories,
    )
    def calls_fail(self, number: int, kind: Kind, names: tuple[str, ...], story: Story) -> None:
        self.meanwhile(Fault(kind, self.worker(number).name, names), story)

    @precondition(lambda self: self.world.living())
    @rule(number=numbers, kind=st.sampled_from(LOSSES), story=stories)
    def a_connection_is_lost(self, number: int, kind: Kind, story: Story) -> None:
        self.meanwhile(Fault(kind, self.worker(number).name), story)

    @precondition(lambda self: self.world.fit())
    @rule(number=numbers, names=st.sampled_from([MAINTENANCE, WORK]), story=stories)
    def calls_take_long(self, number: int, names: tuple[str, ...], story: Story) -> None:
        """Let all maintenance take long, or everything but the heartbeat."""
        fit = self.world.fit()
        worker = fit[number % len(fit)]
        fault = Fault("late", worker.name, names)
        self.meanwhile(fault, attrs.evolve(story, before=MAINTENANCE_STARTS))

    @precondition(lambda self: self.can_lock())
    @rule(seconds=st.sampled_from([2.0, 8.0]))
    def the_table_is_locked(self, seconds: float) -> None:
        self.do(self.world.lock_jobs)
        self.wait(seconds)
        self.do(self.world.unlock_jobs)

    def meanwhile(self, fault: Fault, story: Story) -> None:
        """Begin the fault, let the story happen, and end the fault."""
        self.do(lambda: self.world.begin(fault))
        self.wait(story.before)
        self.add(story.task, 1)
        self.wait(story.after)
        self.happen(story.event, fault.owner)
        self.wait(story.lasts)
        if story.lasts >= PROMPTLY:
            self.simulation.do(self.world.check_nothing_waits)
        self.do(lambda: self.world.end(fault))
        if story.check:
            self.simulation.do(self.world.check_nothing_waits_soon)
        else:
            self.wait(story.after)

    def happen(self, event: Event, owner: str) -> None:
        [worker] = [worker for worker in self.world.workers if worker.name == owner]
        match event:
            case "lose row":
                self.do(lambda: self.world.lose_row(worker))
            case "stop":
                self.do(lambda: self.world.stop(worker))
            case "open gates":
                self.do(lambda: self.world.open_gates(list(self.world.diary.running)))
            case "enqueue":
                self.add("gated", 3)
            case "cancel":
                if running := self.world.diary.of(owner):
                    self.simulation.do(lambda: self.world.cancel(running[0]))
            case "pause":
                if not self.world.wants_pause:
                    self.do(self.world.pause)
            case "nothing":
                pass

    # How

    async def _world(self) -> World:
        return World(self.simulation)

    def worker(self, number: int) -> SimulatedWorker:
        """Return a worker that has not ended."""
        living = self.world.living()
        return living[number % len(living)]

    def attempt(self, number: int) -> Attempt:
        """Return a handler's call that has not ended."""
        running = self.world.diary.running
        return running[number % len(running)]

    def can_lock(self) -> bool:
        """Say whether no transaction of a rule is open."""
        return self.world.open_transaction is None and self.world.locker is None

    def add(self, task: str, count: int, queue: str = "default") -> None:
        """Add jobs, of "rated" not too many."""
        if task == "rated":
            count = min(count, MOST_RATED - self.rated)
            self.rated += count
        if count:
            self.do(lambda: self.world.enqueue(task, count=count, queue=queue))

    def do(self, step: Callable[[], object]) -> None:
        """Run a step in the loop, which then stands still."""

        async def once() -> None:
            step()

        self.simulation.do(once)

    def wait(self, seconds: float) -> None:
        """Let the loop go on; 0: until all tasks wait."""

        async def pass_time() -> None:
            if seconds:
                await anyio.sleep(seconds)
            else:
                await trio.testing.wait_all_tasks_blocked()

        self.simulation.do(pass_time)

    @invariant()
    def nothing_is_wrong(self) -> None:
        self.do(self.world.check)
        assert not self.world.diary.wrongs, "\n".join(self.world.diary.wrongs)

    def teardown(self) -> None:
        if not hasattr(self, "world"):
            return
        try:
            if not self.world.diary.wrongs:
                self.simulation.do(self.world.recover)
                self.nothing_is_wrong()
        finally:
            self.do(lambda: self.world.open_gates(list(self.world.diary.running)))
            self.simulation.close()
