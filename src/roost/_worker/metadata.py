"""What handlers have changed in their jobs' metadata and is not written yet. Data only.

All of it is synchronous, so a cancel can't leave half of a change.
"""

from __future__ import annotations

import math
from time import monotonic

import anyio
import attrs

from roost._model.codec import decode, encode
from roost._model.verdict import Lease
from roost._ops.claim import ClaimedJob
from roost.exceptions import InvalidJobError, LeaseLostError, RoostError

WRITE_INTERVAL = 0.25
"""Seconds between two writes of one job's progress. A person sees no difference, and 128 jobs that
call `Job.progress` in a loop change 512 rows a second, where a worker settles 20,000."""
BUSY_DELAY = 0.1
"""Seconds until a write is tried again whose row was locked."""


@attrs.define(eq=False)
class AttemptMetadata:
    """The changes of one attempt.

    :param lease: the attempt's lease.
    :param max_bytes: most bytes of args and metadata together.
    :param sizes: bytes of each key of the metadata with its value, as they will be.
    :param args_bytes: bytes of the job's args.
    :param unsent: the JSON texts that are not in a write, by encoded key.
    :param recorded: how many changes were recorded; the number of the last one.
    :param written: the number of the last change that is written.
    :param due_at: by ``time.monotonic``, when the next write may begin.
    :param last_write: by ``time.monotonic``, when the last write began.
    :param error: why the changes can't be written.
    :param closed: the attempt has ended.
    :param answered: is set, and replaced, at each answer to a write.
    """

    lease: Lease
    max_bytes: int
    sizes: dict[str, int]
    args_bytes: int
    unsent: dict[str, str] = attrs.field(factory=dict)
    recorded: int = 0
    written: int = 0
    due_at: float = -math.inf
    last_write: float = -math.inf
    error: RoostError | None = None
    closed: bool = False
    answered: anyio.Event = attrs.field(factory=anyio.Event)

    @classmethod
    def of(cls, claimed: ClaimedJob, *, max_bytes: int) -> AttemptMetadata:
        """Return the empty changes of an attempt."""
        metadata = decode(claimed.metadata_text) if claimed.metadata_text else {}
        sizes = {
            encode(key): len(key.encode()) + len(encode(value).encode())
            for key, value in metadata.items()
        }
        return cls(claimed.lease, max_bytes, sizes, len(claimed.args_text.encode()))

    def record(self, changes: dict[str, str], *, soon: bool) -> int:
        """Record changes to be written, and return their number.

        :param soon: write them at once; otherwise `WRITE_INTERVAL` after the last write.
        :raises InvalidJobError: the metadata would be too large; nothing was recorded.
        :raises LeaseLostError: the lease is known to be lost.
        """
        if self.closed or isinstance(self.error, LeaseLostError):
            raise lease_lost(self.lease)
        sizes = {key: len(key.encode()) + len(text.encode()) for key, text in changes.items()}
        total = self.args_bytes + sum((self.sizes | sizes).values())
        if total > self.max_bytes:
            raise InvalidJobError(
                f"args and metadata of job {self.lease.job_id} would have {total:,} bytes, more "
                f"than max_args_bytes of the registry ({self.max_bytes:,}): store the data "
                "elsewhere"
            )
        due_at = -math.inf if soon else self.last_write + WRITE_INTERVAL
        self.due_at = min(self.due_at, due_at) if self.unsent else due_at
        self.sizes |= sizes
        self.unsent |= changes
        self.recorded += 1
        return self.recorded

    def take(self) -> dict[str, str]:
        """Return the unsent changes to write them now."""
        self.last_write = monotonic()
        taken, self.unsent = self.unsent, {}
        return taken

    def keep(self, taken: dict[str, str], *, due_at: float) -> None:
        """Put changes back that were not written; newer ones stay."""
        self.unsent = taken | self.unsent
        self.due_at = due_at

    def drop(self, error: RoostError) -> None:
        """Drop all changes: they can't be written, because of ``error``."""
        self.unsent = {}
        self.answer(self.recorded, error)

    def answer(self, through: int, error: RoostError | None = None) -> None:
        """Record that the changes up to this number are written, or why they can't be."""
        self.written = max(self.written, through)
        self.error = error
        self.answered.set()
        self.answered = anyio.Event()

    async def wait_written(self, number: int) -> None:
        """Return when the changes up to this number are written. A cancel changes nothing.

        :raises RoostError: they can't be.
        """
        while self.written < number:
            await self.answered.wait()
        if self.error is not None:
            raise self.error


class MetadataQueue:
    """The attempts with changes that are not written.

    :ivar failures: how many writes in a row the database has not answered.
    """

    def __init__(self) -> None:
        self.failures = 0
        self._waiting: dict[Lease, AttemptMetadata] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, changes: AttemptMetadata) -> None:
        """Have the attempt's changes written."""
        self._waiting[changes.lease] = changes

    def remove(self, changes: AttemptMetadata) -> None:
        """Forget the attempt's changes."""
        self._waiting.pop(changes.lease, None)

    def next_at(self) -> float:
        """Return when a write is due, by ``time.monotonic``; infinity: nothing is to be written."""
        return min((one.due_at for one in self._waiting.values()), default=math.inf)

    def take_due(self, *, most: int) -> list[AttemptMetadata]:
        """Remove and return up to ``most`` attempts whose changes are due, in the order of ids."""
        now = monotonic()
        due = [one for one in self._waiting.values() if one.due_at <= now]
        due.sort(key=lambda one: one.lease)
        for one in due[:most]:
            self.remove(one)
        return due[:most]


def lease_lost(lease: Lease) -> LeaseLostError:
    """Return the error of a write whose lease does not hold."""
    return LeaseLostError(f"this worker no longer holds the lease of job {lease.job_id}")
