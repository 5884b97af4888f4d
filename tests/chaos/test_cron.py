"""Workers that are killed and stopped while they fire, a database that restarts: once a tick."""

from __future__ import annotations

import itertools
import signal
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos, WorkerProcess

FLAGS = ("-m", "clockwork")


def ticks(chaos: Chaos, entry: str) -> list[int]:
    """Return the ticks that were fired, as seconds since 1970."""
    rows = chaos.table.rows(
        "select extract(epoch from (metadata ->> 'tick')::timestamptz)::bigint from roost.jobs "
        "where metadata ->> 'cron' = $1::text order by 1",
        entry,
    )
    return [tick for (tick,) in rows]


def fires(chaos: Chaos, count: int = 1) -> None:
    """Wait for ``count`` more ticks of both entries."""
    before = {entry: len(ticks(chaos, entry)) for entry in ("beat", "every beat")}
    chaos.until(lambda: all(len(ticks(chaos, entry)) >= before[entry] + count for entry in before))


def gaps(fired: list[int]) -> set[int]:
    return {after - before for before, after in itertools.pairwise(fired)}


def start(chaos: Chaos, backend: str, **options: Any) -> WorkerProcess:
    return chaos.start(backend, *FLAGS, poll_interval=30, **options)


def just_before_a_tick() -> None:
    """Return a few milliseconds before a whole second, when workers are about to fire."""
    time.sleep(max(0.0, 1 - time.time() % 1 - 0.003 * (time.time() % 3)))


def test_a_killed_or_stopped_worker_loses_and_repeats_no_tick(chaos: Chaos) -> None:
    first, second = start(chaos, "asyncio"), start(chaos, "trio")
    for worker in (first, second):
        worker.logged("worker is ready")
    fires(chaos)
    just_before_a_tick()
    first.send(signal.SIGSTOP)
    fires(chaos)
    first.send(signal.SIGCONT)
    just_before_a_tick()
    second.kill()
    fires(chaos)
    third = start(chaos, "trio")
    third.logged("worker is ready")
    just_before_a_tick()
    first.kill()
    fires(chaos, 2)

    for entry in ("beat", "every beat"):
        assert gaps(ticks(chaos, entry)) == {1}, entry
    late = chaos.table.value(
        "select max(extract(epoch from inserted_at - (metadata ->> 'tick')::timestamptz))::float8 "
        "from roost.jobs"
    )
    chaos.measured["the latest tick, seconds"] = late
    assert late < 5


def test_a_restart_of_postgres_leaves_one_job_a_tick(
    restartable_chaos: Chaos, restartable_server: Any
) -> None:
    chaos = restartable_chaos
    for worker in [start(chaos, "asyncio"), start(chaos, "trio")]:
        worker.logged("worker is ready")
    fires(chaos)
    just_before_a_tick()
    restartable_server.restart("immediate")
    chaos.reconnect()
    fires(chaos, 3)
    assert gaps(ticks(chaos, "every beat")) == {1}
    assert 0 not in gaps(ticks(chaos, "beat"))
