"""The metrics that Roost exports: names, labels, meanings, and the buckets of the histograms."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from itertools import accumulate
from typing import Literal

import attrs

Kind = Literal["counter", "gauge", "histogram"]


@attrs.frozen
class Metric:
    """One metric.

    :param name: as in the text; a counter ends in ``_total``.
    :param meaning: one sentence.
    """

    name: str
    kind: Kind
    labels: tuple[str, ...]
    meaning: str


JOBS = ("queue", "task")

METRICS = (
    Metric(
        "roost_jobs_enqueued_total",
        "counter",
        JOBS,
        "Jobs that clients in this process have enqueued, those included that on_conflict left out "
        "or that a rollback took back.",
    ),
    Metric(
        "roost_jobs_started_total",
        "counter",
        JOBS,
        "Attempts that this worker has started.",
    ),
    Metric(
        "roost_jobs_finished_total",
        "counter",
        (*JOBS, "outcome"),
        "Attempts that have finished. The outcome is completed, retried or discarded (both "
        "failed), cancelled, snoozed, released (interrupted by a stop), crashed (rescued from a "
        "dead worker) or lost (the lease was lost).",
    ),
    Metric(
        "roost_job_wait_seconds",
        "histogram",
        JOBS,
        "Seconds from when an attempt was due until it started.",
    ),
    Metric(
        "roost_job_run_seconds",
        "histogram",
        JOBS,
        "Seconds from the start of an attempt to its end.",
    ),
    Metric(
        "roost_worker_info",
        "gauge",
        ("version", "driver", "event_loop"),
        "Always 1, with the worker's version of Roost, driver and event loop.",
    ),
    Metric("roost_worker_live", "gauge", (), "1 if the worker is alive, as /livez says, else 0."),
    Metric(
        "roost_worker_ready", "gauge", (), "1 if it is ready for jobs, as /readyz says, else 0."
    ),
    Metric("roost_worker_slots", "gauge", (), "The most jobs that may run at once."),
    Metric("roost_worker_slots_used", "gauge", (), "Jobs that run."),
    Metric("roost_worker_prefetched_jobs", "gauge", (), "Claimed jobs that wait for a slot."),
    Metric(
        "roost_worker_unwritten_results",
        "gauge",
        (),
        "Ended jobs whose results are not written yet. At 10,000 the worker claims nothing.",
    ),
    Metric(
        "roost_worker_event_loop_lag_seconds",
        "gauge",
        (),
        "By how many seconds the event loop was late at most, in the last minute or two.",
    ),
    Metric(
        "roost_worker_heartbeat_age_seconds",
        "gauge",
        (),
        "Seconds since the last heartbeat that was written to the database.",
    ),
    Metric(
        "roost_worker_listening",
        "gauge",
        (),
        "1 if notifications of new jobs arrive, else 0: the worker polls.",
    ),
    Metric(
        "roost_worker_connections",
        "gauge",
        ("state",),
        "Database connections of the worker's pool; the state is used or idle.",
    ),
    Metric("roost_worker_connections_limit", "gauge", (), "The most connections of that pool."),
    Metric(
        "roost_worker_rescued_jobs_total",
        "counter",
        (),
        "Jobs of dead workers that this worker has taken back.",
    ),
    Metric(
        "roost_worker_lost_leases_total",
        "counter",
        (),
        "Attempts whose lease this worker has lost: another worker runs the job again.",
    ),
    Metric(
        "roost_database_exporter",
        "gauge",
        (),
        "1 if this worker exports the numbers of the database, which are the metrics below; 0 if "
        "another one does, or it could not read them.",
    ),
    Metric(
        "roost_database_reading_failed",
        "gauge",
        (),
        "1 if this worker's last try to read the numbers of the database failed, else 0.",
    ),
    Metric(
        "roost_queue_jobs",
        "gauge",
        ("queue", "state"),
        "Jobs of a queue in the database, counted up to 10,000; the state is available, scheduled, "
        "retryable, blocked, executing, prefetched or discarded.",
    ),
    Metric(
        "roost_queue_oldest_due_seconds",
        "gauge",
        ("queue",),
        "For how long the oldest job that can start has been due; 0: none can start.",
    ),
    Metric("roost_queue_paused", "gauge", ("queue",), "1 if the queue is paused, else 0."),
    Metric("roost_queue_workers", "gauge", ("queue",), "Living workers that serve the queue."),
    Metric(
        "roost_workers",
        "gauge",
        ("state",),
        "Workers in the database; the state is living, or dead: its jobs were not rescued yet.",
    ),
)
"""All of them, in the order of the text."""

_EXPONENTS = (-10, -8, -6, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5, 6, 8, 10, 12, 14)
BUCKETS = tuple((2.0**exponent, 81 + 4 * exponent) for exponent in _EXPONENTS)
"""Upper bounds of the histograms in seconds, powers of two, and the worker's bucket that begins
there: 1 ms to 4.5 h."""
_BOUNDS = (*(str(bound) for bound, _ in BUCKETS), "+Inf")
_FIRST = [first for _, first in BUCKETS]


def cumulated(histograms: Iterable[Mapping[int, int]]) -> list[tuple[str, float]]:
    """Return the sum of histograms as Prometheus wants it: bounds, and how many do not exceed them.

    A duration that is exactly a bound counts above it.
    """
    counts = [0.0] * len(_BOUNDS)
    for histogram in histograms:
        for bucket, count in histogram.items():
            counts[bisect_right(_FIRST, bucket)] += count
    return list(zip(_BOUNDS, accumulate(counts), strict=True))
