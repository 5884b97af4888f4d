"""Clean up the task of a handler or hook that left scopes, task groups or cancels behind.

A handler may return with a cancel scope or a task group open, or with a native cancel of its own
task pending. The event loop would then end the task with an error, which cancels the task group of
all jobs. Neither anyio nor the loops have public names for this state, so it is read from private
ones. Where these are missing, nothing is cleaned up.
"""

# ruff: noqa: SLF001  (see above)

from __future__ import annotations

import sys
from typing import Any, Protocol

import anyio

from roost._drivers.shield import shielded

CHILDREN_TIMEOUT = 1.0
"""Seconds that the tasks of a group that was left open get to end after their cancel."""


class TaskGuard(Protocol):
    """Checks the current task when users' code in it has ended."""

    def is_clean(self, scope: Any) -> bool:
        """Say whether ``scope`` is the innermost open one, and no cancel of the task is pending."""
        ...

    async def clean(self, scope: Any) -> str:
        """Close the scopes and groups open inside ``scope`` and absorb pending cancels.

        :returns: what was found, in words for a log message.
        """
        ...

    def ends_with_its_loop(self) -> bool:
        """Say whether the event loop itself is ending, which cancels every task."""
        ...


def guard_for_this_loop() -> TaskGuard:
    """Return the guard for the running event loop. Call it in the lane's task."""
    on_trio = anyio.get_cancelled_exc_class().__module__.startswith("trio")
    try:
        guard: TaskGuard = _TrioGuard() if on_trio else _AsyncioGuard()
        with anyio.CancelScope() as scope:  # noqa: ASYNC100  (only read)
            if guard.is_clean(scope):
                return guard
    except (AttributeError, KeyError, ImportError):
        pass
    return _NoGuard()


class _NoGuard:
    def is_clean(self, scope: Any) -> bool:  # noqa: ARG002  (the protocol's)
        return True

    async def clean(self, scope: Any) -> str:  # noqa: ARG002  (the protocol's)
        return "nothing"

    def ends_with_its_loop(self) -> bool:
        return False


class _AsyncioGuard:
    def __init__(self) -> None:
        import asyncio

        from anyio._backends import _asyncio

        self._asyncio = asyncio
        self._states: Any = _asyncio._task_states
        lane = asyncio.current_task()
        assert lane is not None  # noqa: S101  (called in a task)
        self._lane = lane

    def is_clean(self, scope: Any) -> bool:
        if scope is None:
            return True  # an eager task: nothing was awaited yet
        return not (scope._child_scopes or scope._host_task._must_cancel)

    async def clean(self, scope: Any) -> str:
        task: Any = scope._host_task
        found = []
        left: list[Any] = []
        state = self._states[task]
        while state.cancel_scope is not scope:
            inner = state.cancel_scope
            found.append("a task group" if len(inner._tasks) > 1 else "a cancel scope")
            # Before it is closed: all other tasks in it are cancelled until they end.
            inner.cancel()
            inner.__exit__(None, None, None)
            left += inner._tasks
        if task._must_cancel or task.cancelling() > _delivered(scope, task):
            found.append("a pending cancel")
        await self._absorb_cancels(scope, task)
        if left:
            with shielded(CHILDREN_TIMEOUT):
                while any(not child.done() for child in left):
                    await self._asyncio.wait(left)
            await self._absorb_cancels(scope, task)
        return " and ".join(dict.fromkeys(found))

    async def _absorb_cancels(self, scope: Any, task: Any) -> None:
        while task._must_cancel:
            try:
                await self._asyncio.sleep(0)
            except self._asyncio.CancelledError:
                continue
        while task.cancelling() > _delivered(scope, task):
            task.uncancel()

    def ends_with_its_loop(self) -> bool:
        return self._lane.cancelling() > 0 or self._lane.done()


def _delivered(scope: Any, task: Any) -> int:
    """Return how many cancels of ``task`` come from anyio, which uncancels them itself."""
    count = 0
    while scope is not None and scope._host_task is task:
        count += scope._pending_uncancellations or 0
        scope = scope._parent_scope
    return count


class _TrioGuard:
    def __init__(self) -> None:
        self._current_task: Any = sys.modules["trio"].lowlevel.current_task

    def is_clean(self, scope: Any) -> bool:
        task = self._current_task()
        inner: bool = task._cancel_status is scope._CancelScope__original._cancel_status
        return inner and not task._child_nurseries

    async def clean(self, scope: Any) -> str:
        task = self._current_task()
        expected = scope._CancelScope__original._cancel_status
        found = []
        while task._cancel_status is not expected:
            inner = task._cancel_status._scope
            nurseries = task._child_nurseries
            if nurseries and nurseries[-1].cancel_scope is inner:
                found.append("a task group")
                inner.cancel()
                # Nothing handles the errors of its tasks any more. As in any nursery, wait until
                # they have ended.
                await nurseries[-1]._nested_child_finished(None)
            else:
                found.append("a cancel scope")
            inner._close(None)
        return " and ".join(dict.fromkeys(found))

    def ends_with_its_loop(self) -> bool:
        return False
