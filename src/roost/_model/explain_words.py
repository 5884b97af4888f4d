"""The words of an explanation: names, numbers and times."""

from __future__ import annotations

from datetime import datetime

from roost._model.explain_facts import Facts, HolderFacts, WorkerFacts

MOST_IN_FRONT = 1_000
"""Jobs in front are counted up to this number."""


def limited_task(facts: Facts) -> str:
    """Name the task, and the limit key if the limits apply by key."""
    task, key = facts.job.task, facts.job.limit_key
    if facts.limit is None or facts.limit.limit_by is None or key is None:
        return f"Task {task!r}"
    return f"Task {task!r} with limit key {key!r}"


def by_set_limit(value: int | None) -> str:
    """Say that a limit was set by set_limit."""
    return "" if value is None else " (by set_limit)"


def worker_name(worker: HolderFacts | WorkerFacts) -> str:
    """Name a worker."""
    return f"{worker.name} (id {worker.id})"


def on_worker(facts: Facts) -> str:
    """Name the worker that holds the job."""
    return "" if facts.worker is None else f" on worker {worker_name(facts.worker)}"


def because(error: str | None) -> str:
    """Add the first line of an error."""
    if not error:
        return ""
    line = error.splitlines()[0]
    return f": {line if len(line) <= 200 else line[:199] + '…'}".rstrip(".")


def jobs_in_front(jobs: int) -> str:
    """Say how many due jobs start before it."""
    if not jobs:
        return "no due job of its queue is in front of it"
    if jobs == 1:
        return "1 due job of its queue is in front of it"
    more = " or more" if jobs >= MOST_IN_FRONT else ""
    return f"{jobs}{more} due jobs of its queue are in front of it"


def every(number: int, noun: str) -> str:
    """Say that all of some things are meant."""
    return f"The only {noun}" if number == 1 else f"All {number} {noun}s"


def count(number: int, noun: str) -> str:
    """Return a number with its noun."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def seconds_until(facts: Facts, moment: datetime) -> float:
    """Return the seconds from now until a time."""
    return (moment - facts.now).total_seconds()


def clock(moment: datetime) -> str:
    """Return a time to the second."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def as_json(value: object) -> object:
    """Return a value as JSON has it."""
    return value.isoformat() if isinstance(value, datetime) else value
