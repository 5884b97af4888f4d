"""The calls that rules make to the model and to Roost, and the answers of both."""

from __future__ import annotations

from typing import Any, TypeAlias

import attrs

from roost._model.unique import UniqueWhile
from roost._model.verdict import Lease

LIVE_CHANNELS = ("roost_worker_one", "roost_worker_two")
"""Channels of workers whose listening connection lives."""
DEAD_CHANNEL = "roost_worker_gone"
"""The channel of a worker whose listening connection has ended."""


@attrs.frozen(kw_only=True)
class NewJob:
    """A job to enqueue.

    :param due_in: seconds from now until it is due, negative for the past; ``None``: not given.
    """

    task: str
    queue: str
    priority: int = 0
    max_attempts: int = 20
    due_in: int | None = None
    unique_key: str | None = None
    tags: list[str] | None = None
    timeout_seconds: int | None = None
    args: dict[str, Any] = attrs.field(factory=dict)
    metadata: dict[str, Any] | None = None
    depends_on: list[int] | None = None
    unique_while: UniqueWhile = "active"
    unique_for: int | None = None


@attrs.frozen
class Succeed:
    """The handler returned ``result``."""

    result: Any


@attrs.frozen
class Fail:
    """The handler raised ``ValueError(text)``; its strategy waits ``retry_in`` seconds."""

    text: str
    retry_in: int


@attrs.frozen
class TimeOut:
    """The attempt ran longer than ``limit`` seconds; its strategy waits ``retry_in`` seconds."""

    limit: int
    retry_in: int


@attrs.frozen
class Snooze:
    """The handler raised ``SnoozeJob(seconds)``."""

    seconds: int


@attrs.frozen
class CancelItself:
    """The handler raised ``CancelJob(reason)``."""

    reason: str


@attrs.frozen
class DiscardItself:
    """The handler raised ``DiscardJob(reason)``."""

    reason: str


@attrs.frozen
class RetryItself:
    """The handler raised ``RetryJob(reason, in_=seconds)``."""

    reason: str
    seconds: int


@attrs.frozen
class FailForGood:
    """The handler raised ``ValueError(text)``, which its task does not retry."""

    text: str


@attrs.frozen
class Release:
    """The worker stopped the attempt, or never started it."""


@attrs.frozen
class Cancel:
    """A requested cancel ended the attempt."""


Ending: TypeAlias = (
    Succeed
    | Fail
    | FailForGood
    | TimeOut
    | Snooze
    | CancelItself
    | DiscardItself
    | RetryItself
    | Release
    | Cancel
)


@attrs.frozen
class Grant:
    """A lease, with the attempts that its worker knows."""

    lease: Lease
    attempt: int
    max_attempts: int


@attrs.frozen
class End:
    """An attempt and its ending."""

    grant: Grant
    ending: Ending


@attrs.frozen
class Claim:
    """The answer to a claim.

    :param jobs: each job as a `roost.Job` shows it, in running order.
    :param next_due: seconds until the next job is due, if that was asked.
    :param credit: the number of the worker's credit, 0 without one; ``None``: it has no row.
    """

    grants: list[Grant]
    jobs: list[dict[str, Any]]
    next_due: float | None
    alive: bool
    credit: int | None


@attrs.frozen
class Leased:
    """A job that runs, as a `roost.Job` shows it."""

    grant: Grant
    job: dict[str, Any]


@attrs.frozen
class Dispatched:
    """A notification on a worker's channel: a job was dispatched to it; read your row."""

    channel: str


@attrs.frozen
class Settled:
    """The answer to a settle.

    :param lost: the lease did not hold; nothing was done.
    :param busy: not written yet: another transaction holds a row that must change.
    """

    lost: set[Lease]
    busy: set[Lease]


@attrs.frozen
class Call:
    """A verb with its parameters: a call that has not been made yet."""

    verb: str
    parameters: dict[str, Any]
