"""``roost workers``: list the workers."""

from __future__ import annotations

from datetime import datetime

from roost import WorkerInfo
from roost._model.liveness import is_silent
from roost.cli.client import CommandClient
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, examples, show

EPILOG = examples("roost workers", "roost workers --json")


def workers(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the workers, as of their last heartbeat.

    STATE is silent if it has missed three heartbeats, and dead if the time of its lease is over. A
    dead worker is listed until another worker has noticed, and rescued its jobs.
    """
    with CommandClient(dsn, "workers") as client:
        found = client.list_workers()
        now = client.database_time()
    show(
        found,
        columns(now),
        as_json=as_json,
        empty="No worker is registered: start one with `roost run`.",
    )


def columns(now: datetime) -> Columns[WorkerInfo]:
    """Return the columns of the table.

    :param now: by the database's clock.
    """
    return {
        "ID": lambda worker: worker.id,
        "NAME": lambda worker: worker.name,
        "STATE": lambda worker: _state(worker, now),
        "QUEUES": lambda worker: worker.queues,
        "RUNNING": lambda worker: f"{worker.executing}/{worker.concurrency}",
        "PREFETCHED": lambda worker: worker.prefetched,
        "LOOP LAG": lambda worker: f"{worker.loop_lag:.2f}s",
        "HEARTBEAT": lambda worker: worker.heartbeat_at,
        "VERSION": lambda worker: worker.version,
        "RUNS ON": lambda worker: worker.event_loop,
    }


def _state(worker: WorkerInfo, now: datetime) -> str:
    if worker.expires_at <= now:
        return "dead"
    lease = worker.expires_at - worker.heartbeat_at
    silent = is_silent(now - worker.heartbeat_at, lease, worker.heartbeat_interval)
    return "silent" if silent else "alive"
