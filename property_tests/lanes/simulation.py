"""One example's event loop, in a thread of its own, that moves only inside a rule.

Hypothesis calls rules in the main thread. Each rule hands a coroutine function to the loop and
waits until that has returned. Between two rules the loop stands still.
"""

from __future__ import annotations

import math
import queue
import random
import threading
from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, TypeVar
from unittest import mock

import anyio
import trio
from anyio.abc import TaskGroup
from property_tests.lanes.clock import worker_timers
from property_tests.lanes.database import Network, Server
from property_tests.lanes.threads import steered_threads
from trio.testing import MockClock

from roost._worker import database as worker_database
from roost._worker.loop_watch import LoopWatch

T = TypeVar("T")

REAL_TIMEOUT = 60.0
"""Real seconds after which a rule that does not return is an error."""


async def _watch_nothing(watch: LoopWatch) -> None:
    """Replace `LoopWatch.run`: it measures real time, in which the loop stands still."""
    await anyio.sleep_forever()


class Simulation:
    """An event loop with a clock of its own, and a network to the database.

    :param server: its tables are emptied.
    :param seed: decides the order in which tasks run, and how long calls take.
    """

    group: TaskGroup

    def __init__(self, server: Server, *, seed: int) -> None:
        self.clock = MockClock(autojump_threshold=0)
        server.begin_example(self.clock)
        self.server = server
        self.network = Network(server, random.Random(seed))
        self.faults = self.network.faults
        self._steps: queue.SimpleQueue[Callable[[], Awaitable[Any]] | None] = queue.SimpleQueue()
        self._answers: queue.SimpleQueue[tuple[Any, BaseException | None]] = queue.SimpleQueue()
        self._patches = ExitStack()
        self._patches.enter_context(worker_timers(self.clock))
        self._patches.enter_context(steered_threads())
        self._patches.enter_context(mock.patch.object(LoopWatch, "run", _watch_nothing))
        # A call that a fault makes slow says nothing of its plan, and the plans are shared.
        self._patches.enter_context(mock.patch.object(worker_database, "SLOW_CALL", math.inf))
        random.seed(seed)
        trio._core._run._r.seed(seed)
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def now(self) -> float:
        """Seconds since the beginning."""
        return self.clock.current_time()

    def do(self, step: Callable[[], Awaitable[T]]) -> T:
        """Let the loop run until ``step`` has returned, and return its value."""
        self._steps.put(step)
        value, error = self._answers.get(timeout=REAL_TIMEOUT)
        if error is not None:
            raise error
        answer: T = value
        return answer

    def close(self) -> None:
        """End every task at once."""
        self._steps.put(None)
        self._thread.join(REAL_TIMEOUT)
        self._patches.close()
        assert not self._thread.is_alive(), "the event loop does not end"

    def _run(self) -> None:
        try:
            trio.run(self._main, clock=self.clock)
        except BaseException as error:  # noqa: BLE001  (for the thread of the rules)
            self._answers.put((None, error))

    async def _main(self) -> None:
        async with anyio.create_task_group() as self.group:
            # Blocks the loop: nothing happens between two rules.
            while (step := self._steps.get()) is not None:
                try:
                    self._answers.put((await step(), None))
                except Exception as error:  # noqa: BLE001  (the rule's)
                    self._answers.put((None, error))
            self.group.cancel_scope.cancel()
