"""Several threads that enqueue single jobs into Roost as fast as they can, for some seconds.

Each sends the statement of `Roost.enqueue`, with the arguments of a real call, on a connection of
its own, prepared, through libpq: so that Postgres is the limit and not Python.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from datetime import UTC, datetime, timedelta

import psycopg
from bench.peers.common import LATER, QUEUE, say

import roost
from roost._client import calls


def main() -> None:
    """Be ready, wait for a line that says when to begin, and say how many were sent."""
    options = json.loads(sys.argv[1])
    due = datetime.now(UTC) + timedelta(seconds=LATER) if options["later"] else None
    job = roost.JobInsert("noop", {"i": 1}, queue=QUEUE, scheduled_at=due)
    call = calls.enqueue(
        roost.HandlerRegistry(), job, on_conflict="raise", in_own_transaction=True, carrier={}
    )
    query = next(call.operation)
    text = query.statement.text.encode()
    params = [str(param).encode() for param in query.params]
    begin = threading.Event()
    at = 0.0
    counts: list[int] = []

    def produce(conn: psycopg.Connection) -> None:
        raw = conn.pgconn
        raw.prepare(b"enqueue", text)
        begin.wait()
        time.sleep(max(0.0, at - time.monotonic()))
        count = 0
        while time.monotonic() < at + options["seconds"]:
            result = raw.exec_prepared(b"enqueue", params)
            if result.ntuples != 1:
                raise RuntimeError(result.error_message.decode())
            count += 1
        counts.append(count)

    connections = [
        psycopg.connect(options["dsn"], autocommit=True) for _ in range(options["threads"])
    ]
    threads = [threading.Thread(target=produce, args=(conn,)) for conn in connections]
    for thread in threads:
        thread.start()
    say(ready=True)
    at = float(sys.stdin.readline())
    begin.set()
    for thread in threads:
        thread.join()
    if len(counts) < len(threads):
        sys.exit("a producer failed")
    say(sent=sum(counts))


if __name__ == "__main__":
    main()
