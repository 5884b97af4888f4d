"""What goes wrong between a worker and the database, and when it is over."""

from __future__ import annotations

from typing import Literal

import attrs
import trio

from roost.exceptions import DatabaseUnavailableError

Kind = Literal["late", "answered late", "unsent", "unanswered", "deaf", "cut off"]
"""What happens to a call while the fault lasts.

- ``late``: it does not reach the database.
- ``answered late``: it takes effect at once, and its answer does not come back.
- ``unsent``: it fails and has no effect.
- ``unanswered``: it takes effect and fails.
- ``deaf``: the listening connection is lost and can't be opened. Calls are not concerned.
- ``cut off``: no call, answer or notification gets through. The connections stay open.
"""

MAINTENANCE = (
    # What rescues and the archive begin with.
    *("dependencies.bound_lock_waits", "rescue.", "archive."),
    *("limits.limited_tasks", "limits.stamp", "unknown_tasks."),
)
CLAIMS = ("claim.", "limits.claim_limited_jobs", "dispatch.accept_dispatched")
WORK = (*CLAIMS, *MAINTENANCE, "settle.", "dispatch.", "control.cancel_requests_of")
"""All that the connection of the heartbeat is not for."""
HEARTBEATS = ("workers.renew_worker", "workers.register_worker")


@attrs.define(eq=False)
class Fault:
    """A fault that lasts until it is ended.

    :param owner: the worker that it concerns.
    :param names: how the names of the statements begin that it concerns; empty: all.
    """

    kind: Kind
    owner: str
    names: tuple[str, ...] = ()

    @property
    def is_harmless(self) -> bool:
        """Whether a worker must go on as if nothing had happened."""
        return self.kind in ("late", "answered late") and self.names == MAINTENANCE

    def hinders(self, names: tuple[str, ...]) -> bool:
        """Say whether it concerns one of these statements."""
        return self.kind != "deaf" and (not self.names or bool({*self.names} & {*names}))


class Faults:
    """The faults that last."""

    def __init__(self) -> None:
        self.active: list[Fault] = []
        self._changed = trio.Event()

    def begin(self, fault: Fault) -> None:
        """Let it happen from now on."""
        self.active.append(fault)
        self.changed()

    def end(self, fault: Fault) -> None:
        """Let what it held back go on."""
        self.active.remove(fault)
        self.changed()

    def changed(self) -> None:
        """Let everything that waits look again."""
        self._changed.set()
        self._changed = trio.Event()

    def of(self, owner: str) -> list[Fault]:
        """Return the faults that concern a worker."""
        return [fault for fault in self.active if fault.owner == owner]

    def happens(self, kind: Kind, owner: str, name: str = "") -> bool:
        """Say whether a fault of this kind concerns the statement ``name`` of ``owner``."""
        return any(
            fault.kind == kind and fault.owner == owner and name.startswith(fault.names or ("",))
            for fault in self.active
        )

    async def send(self, owner: str, name: str) -> None:
        """Wait until a call reaches the database.

        :raises DatabaseUnavailableError: it does not.
        """
        while self.happens("late", owner, name) or self.happens("cut off", owner):
            await self._changed.wait()
        if self.happens("unsent", owner, name):
            raise DatabaseUnavailableError("not sent")

    async def answer(self, owner: str, name: str) -> None:
        """Wait until an answer reaches the worker.

        :raises DatabaseUnavailableError: it does not.
        """
        while self.happens("answered late", owner, name) or self.happens("cut off", owner):
            await self._changed.wait()
        if self.happens("unanswered", owner, name):
            raise DatabaseUnavailableError("not answered")

    async def wait_for_change(self) -> None:
        """Return when a fault has begun or ended, or the database has changed."""
        await self._changed.wait()
