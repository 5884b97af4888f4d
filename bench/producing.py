"""Processes that insert jobs through the public client, one row a commit or in bulk."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime, timedelta

import attrs
from bench.draining import ROOT, TASK, environment

from roost import HandlerRegistry, JobInsert, Roost


@attrs.frozen(kw_only=True)
class Produce:
    """The settings of one producer process.

    :param seconds: for how long.
    :param bulk: rows a call; 1: `enqueue`, else `enqueue_many`.
    :param later: seconds until the jobs are due. Jobs that are due later than in a minute cause
        no notification.
    """

    dsn: str
    seconds: float
    bulk: int = 1
    queue: str = "default"
    later: float = 0.0


@attrs.frozen(kw_only=True)
class Produced:
    """The figures of one producer process.

    :param seconds: how long it took, to the end of the last call.
    :param cpu: the CPU seconds of its process meanwhile.
    """

    rows: int
    seconds: float
    cpu: float


@contextmanager
def producers(what: Produce, count: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Start processes that wait for `go`; end them at the end."""
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.producing", json.dumps(attrs.asdict(what))],
                    cwd=ROOT,
                    env=environment(),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(count)
        ]
        try:
            for process in processes:
                assert process.stdout is not None
                if process.stdout.readline() != "ready\n":
                    raise RuntimeError("a producer did not start")
            yield processes
        finally:
            for process in processes:
                process.kill()


def go(processes: list[subprocess.Popen[str]]) -> None:
    """Let the producers begin."""
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def produced(processes: list[subprocess.Popen[str]]) -> list[Produced]:
    """Wait for the producers' end and return the figures of each."""
    return [Produced(**json.loads(process.communicate()[0])) for process in processes]


def rate(done: list[Produced]) -> float:
    """Return the rows per second of all together."""
    return sum(one.rows / one.seconds for one in done)


# In the producer's process.


def _insert(what: Produce) -> Produced:
    registry = HandlerRegistry()
    registry.register(TASK, _never_called)
    due = datetime.now(UTC) + timedelta(seconds=what.later) if what.later else None
    with Roost(what.dsn, registry=registry) as client:
        batch = [JobInsert(TASK, queue=what.queue, scheduled_at=due)] * what.bulk
        client.list_queues()  # connects
        print("ready", flush=True)
        sys.stdin.readline()
        rows, began, cpu = 0, time.perf_counter(), time.process_time()
        while time.perf_counter() < began + what.seconds:
            if what.bulk == 1:
                client.enqueue(TASK, queue=what.queue, scheduled_at=due)
            else:
                client.enqueue_many(batch)
            rows += what.bulk
        return Produced(
            rows=rows, seconds=time.perf_counter() - began, cpu=time.process_time() - cpu
        )


def _never_called() -> None: ...


if __name__ == "__main__":
    print(json.dumps(attrs.asdict(_insert(Produce(**json.loads(sys.argv[1]))))), flush=True)
