"""``roost workers``: list the workers."""

from __future__ import annotations

from roost import WorkerInfo
from roost.cli.client import CommandClient
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, show


def workers(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the workers, as of their last heartbeat.

    A worker that was killed is listed until its lease has expired and another worker has noticed.
    """
    with CommandClient(dsn, "workers") as client:
        found = client.list_workers()
    show(
        found,
        COLUMNS,
        as_json=as_json,
        empty="No worker is registered: start one with `roost run`.",
    )


COLUMNS: Columns[WorkerInfo] = {
    "ID": lambda worker: worker.id,
    "NAME": lambda worker: worker.name,
    "QUEUES": lambda worker: worker.queues,
    "RUNNING": lambda worker: f"{worker.executing}/{worker.concurrency}",
    "PREFETCHED": lambda worker: worker.prefetched,
    "LOOP LAG": lambda worker: f"{worker.loop_lag:.2f}s",
    "HEARTBEAT": lambda worker: worker.heartbeat_at,
    "VERSION": lambda worker: worker.version,
    "RUNS ON": lambda worker: worker.event_loop,
}
