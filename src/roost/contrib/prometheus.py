"""Metrics of workers, of this process's clients and of the database, for Prometheus.

    from prometheus_client import REGISTRY
    from roost.contrib.prometheus import RoostCollector

    REGISTRY.register(RoostCollector(worker))

Needs the extra ``prometheus``. Nothing is computed before a scrape: jobs are counted by the worker
itself. `METRICS` lists what is exported.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator

from roost._client.enqueued import enqueued
from roost._model.database_view import QUEUE_STATES, DatabaseNumbers, bounded
from roost._model.info import QueueInfo
from roost._model.tally import Tally
from roost._ops.rollups import Counted
from roost._worker.session import Session
from roost._worker.worker import Worker, session_of
from roost.contrib.metrics import METRICS, Metric, cumulated

try:
    from prometheus_client import REGISTRY, core
    from prometheus_client.exposition import choose_encoder
    from prometheus_client.registry import Collector
except ImportError as error:
    raise ImportError(
        "prometheus-client is not installed: pip install 'anyroost[prometheus]'"
    ) from error

__all__ = ["METRICS", "RoostCollector", "as_text"]

_BY_NAME = {metric.name: metric for metric in METRICS}

Values = dict[tuple[str, ...], float]
"""The values of a metric, by the values of its labels."""


class RoostCollector(Collector):
    """Exports the metrics of workers, of this process's clients, and of the database.

    For example:

        from prometheus_client import REGISTRY, start_http_server

        REGISTRY.register(RoostCollector(worker))
        start_http_server(9090)

    The numbers of several workers are added up. Counters start at 0 in each run of a worker. A
    scrape makes no call to the database and may come from any thread. The numbers of the database
    are read every 15 s by one of the workers that are scraped, whatever their number.

    :param workers: of this process; they need not run yet. None: only the count of enqueued jobs.
    """

    def __init__(self, *workers: Worker) -> None:
        self._workers = workers

    def describe(self) -> Iterable[core.Metric]:
        """Return nothing: a registry then does not collect when it registers this collector."""
        return []

    def collect(self) -> Iterator[core.Metric]:
        """Yield the metrics that have values."""
        found = _enqueued()
        running = [session for session in map(session_of, self._workers) if session is not None]
        totals = [one for session in running for one in session.state.statistics.totals()]
        if self._workers:
            found |= _health(self._workers) | _of_sessions(running, totals)
        for name, values in found.items():
            yield _family(_BY_NAME[name], values)
        if self._workers:
            yield from _times(totals)


Families = dict[str, Values]


def _enqueued() -> Families:
    return {"roost_jobs_enqueued_total": {key: float(n) for key, n in enqueued.counts().items()}}


def _health(workers: Iterable[Worker]) -> Families:
    known = [worker.health() for worker in workers]
    return {
        "roost_worker_live": {(): float(all(health.live for health in known))},
        "roost_worker_ready": {(): float(all(health.ready for health in known))},
        "roost_worker_listening": {(): float(all(health.listening for health in known))},
        "roost_worker_slots": {(): float(sum(health.slots for health in known))},
        "roost_worker_slots_used": {(): float(sum(health.running for health in known))},
        "roost_worker_prefetched_jobs": {(): float(sum(health.prefetched for health in known))},
        "roost_worker_unwritten_results": {(): float(sum(health.unwritten for health in known))},
        "roost_worker_heartbeat_age_seconds": {
            (): max(
                (age for health in known if (age := health.heartbeat_age_seconds) is not None),
                default=math.nan,
            )
        },
    }


def _of_sessions(sessions: list[Session], totals: list[Counted]) -> Families:
    """Return what the runs of workers have counted, and what they have read of the database."""
    found: dict[str, Values] = defaultdict(lambda: defaultdict(float))
    for queue, task, outcome, tally in totals:
        found["roost_jobs_finished_total"][queue, task, outcome] += tally.count
        if outcome == "lost":
            found["roost_worker_lost_leases_total"][()] += tally.count
    for session in sessions:
        state = session.state
        found["roost_worker_info"][session.software] = 1.0
        lag = found["roost_worker_event_loop_lag_seconds"]
        lag[()] = max(lag[()], session.loop_lag)
        connections = session.connections
        found["roost_worker_connections"]["used",] += connections.used
        found["roost_worker_connections"]["idle",] += connections.size - connections.used
        found["roost_worker_connections_limit"][()] += connections.limit
        found["roost_worker_rescued_jobs_total"][()] += state.statistics.rescued
        found["roost_worker_lost_leases_total"][()] += 0
        for series in state.statistics:
            found["roost_jobs_started_total"][series.queue, series.task] += series.started
        numbers = session.read_database_view()
        found["roost_database_reading_failed"][()] += state.database_view.failed
        found["roost_database_exporter"][()] += numbers is not None
        if numbers is not None:
            found.update(_of_database(bounded(numbers)))
    return found


def _of_database(numbers: DatabaseNumbers) -> Families:
    def each(value: Callable[[QueueInfo], float]) -> Values:
        return {(queue.name,): float(value(queue)) for queue in numbers.queues}

    return {
        "roost_queue_jobs": {
            (queue.name, state): float(getattr(queue, state))
            for queue in numbers.queues
            for state in QUEUE_STATES
        },
        "roost_queue_oldest_due_seconds": each(lambda queue: queue.oldest_due_seconds or 0.0),
        "roost_queue_paused": each(lambda queue: queue.paused_at is not None),
        "roost_queue_workers": each(lambda queue: numbers.workers_of.get(queue.name, 0)),
        "roost_workers": {("living",): float(numbers.living), ("dead",): float(numbers.dead)},
    }


def _family(metric: Metric, values: Values) -> core.Metric:
    kind = core.CounterMetricFamily if metric.kind == "counter" else core.GaugeMetricFamily
    family = kind(metric.name, metric.meaning, labels=metric.labels)
    for labels, value in values.items():
        family.add_metric(labels, value)
    return family


def _times(totals: Iterable[Counted]) -> Iterator[core.Metric]:
    """Yield the histograms of the wait and run times."""
    tallies: dict[tuple[str, str], list[Tally]] = defaultdict(list)
    for queue, task, _, tally in totals:
        tallies[queue, task].append(tally)
    for name in ("wait", "run"):
        metric = _BY_NAME[f"roost_job_{name}_seconds"]
        family = core.HistogramMetricFamily(metric.name, metric.meaning, labels=metric.labels)
        for labels, given in tallies.items():
            family.add_metric(
                labels,
                cumulated(getattr(tally, name) for tally in given),
                sum(getattr(tally, f"{name}_seconds") for tally in given),
            )
        yield family


class _Both(Collector):
    """The metrics of a collector, and those of the default registry that it does not have."""

    def __init__(self, first: Collector) -> None:
        self._first = first

    def collect(self) -> Iterator[core.Metric]:
        seen = set()
        for family in self._first.collect():
            seen.add(family.name)
            yield family
        yield from (family for family in REGISTRY.collect() if family.name not in seen)


def as_text(collector: Collector, *, accept: str = "") -> tuple[bytes, str]:
    """Return the metrics of a collector and of the default registry, and their content type.

    The default registry has the metrics of your own code, of the process and of Python.

    :param accept: the request's header ``Accept``.
    """
    encode, content_type = choose_encoder(accept)
    return encode(_Both(collector)), content_type
