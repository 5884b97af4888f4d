"""Send events of jobs to the clients that listen, and read what a listener needs."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from roost._ops.query import Op, Query
from roost._sql import statements

_SQL = statements("events")

CHANNEL = "roost_events"
"""Also the name of the advisory lock that each listener holds, shared."""


def is_watched() -> Op[bool]:
    """Say whether a client listens for events."""
    [(watched,)] = yield Query(_SQL["is_watched"])
    return bool(watched)


def send_events(payloads: Sequence[str]) -> Op[bool]:
    """Send payloads of `roost._model.events`; ``False``: no client listens, nothing was sent."""
    [(watched,)] = yield Query(_SQL["send_events"], (list(payloads),))
    return bool(watched)


def probe_events(token: str) -> Op[None]:
    """Send a notification by which a listener checks that its connection receives any."""
    yield Query(_SQL["probe_events"], (token,))


def watch() -> Op[dict[int, str]]:
    """Tell all workers that a client listens; return the names of living workers by id."""
    return dict((yield Query(_SQL["watch"])))


def error_lines(attempts: Collection[tuple[int, int]]) -> Op[dict[tuple[int, int], str]]:
    """Return the first line of the error of each attempt that is still known.

    :param attempts: job ids and numbers of attempts.
    """
    parameters = [job_id for job_id, _ in attempts], [attempt for _, attempt in attempts]
    rows = yield Query(_SQL["error_lines"], parameters)
    return {(job_id, attempt): error for job_id, attempt, error in rows if error is not None}
