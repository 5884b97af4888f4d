"""The worker's record of events: each job's are in the order in which they happened."""

from __future__ import annotations

import json

import pytest
from tests.worker.test_slots import claimed

from roost._model.states import Event, JobState
from roost._model.verdict import Verdict
from roost._ops.settle import Settled
from roost._worker.event_log import EventLog
from roost._worker.lane import Wake

pytestmark = pytest.mark.anyio

WRITTEN = Settled([], [], [])


def sent(log: EventLog) -> list[tuple[str, int]]:
    """Return kind and job of the events that the log would send now."""
    return [
        (event[0], event[1])
        for payload in log.take_payloads(1)
        for event in json.loads(payload)["e"]
    ]


async def test_a_start_comes_after_the_end_of_the_attempt_before() -> None:
    log = EventLog(Wake(), set())
    first, second, third = (claimed(1, lease_no=number) for number in (1, 2, 3))
    log.started(first)
    log.expect(first, was_started=True)
    # Claimed again, and ended, before the answer to the write of the first end.
    log.started(second)
    log.started(claimed(2))
    log.expect(second, was_started=True)
    log.started(third)
    assert sent(log) == [("started", 1), ("started", 2)]

    log.settled(WRITTEN, [Verdict(first.lease, Event.RETRY, delay=0)])
    assert sent(log) == [("failed", 1)]

    log.settled(WRITTEN, [Verdict(second.lease, Event.DISCARD)])
    assert sent(log) == [("started", 1), ("discarded", 1), ("started", 1)]


async def test_a_held_start_is_not_lost_with_the_lease_of_the_attempt_before() -> None:
    log = EventLog(Wake(), set())
    first, second = claimed(1), claimed(1, lease_no=2)
    log.expect(first, was_started=True)
    log.started(second)
    late = Verdict(first.lease, Event.RETRY, delay=0)
    log.settled(Settled([late], [], []), [late])
    assert sent(log) == [("started", 1)]
    assert late.state is JobState.RETRYABLE
