"""A small pool of blocking connections, for threads. No background thread, nothing to start.

A signal handler may raise an exception between any two steps here, and a process may be forked at
any time. So there is no lock, and no count: a connection is in use while its `_Loan` is registered
and alive, and what changes the state is one call of a dict's or a deque's method.
"""

from __future__ import annotations

import weakref
from collections import deque
from contextlib import AbstractContextManager
from queue import Empty, SimpleQueue
from time import monotonic

import attrs

from roost._drivers.base import CALL_TIMEOUT
from roost._drivers.prepared import PreparedStatements
from roost._drivers.process import PerProcess, current_process
from roost._drivers.psycopg_sync.adapter import SyncConnection, connect
from roost.exceptions import ClosedError, DatabaseUnavailableError, RoostError

LOOK_INTERVAL = 0.1
"""Seconds between two looks of a thread that waits; it is also called when its turn has come."""


class PsycopgSyncPool:
    """Up to ``max_size`` connections, opened when needed, the last one used first.

    A process that was forked from one that used the pool starts with none: the parent's connections
    stay the parent's.
    """

    def __init__(self, dsn: str, *, max_size: int, application_name: str = "roost") -> None:
        self._dsn = dsn
        self._max_size = max_size
        self._application_name = application_name
        self._prepared_statements = PreparedStatements()
        self._ended = False
        self._states = PerProcess(_State)

    def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AbstractContextManager[SyncConnection]:
        """Borrow a connection; wait up to ``timeout`` seconds for one to be free and connected.

        After any error that is no `RoostError` it is closed, since its state is unknown.

        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        return _Loan(self, timeout)

    def close(self) -> None:
        """Close every idle connection now and each borrowed one when it comes back."""
        self._ended = True
        self._states.get().close_idle()

    def refuse_if_closed(self) -> None:
        """Raise `ClosedError` if the pool was closed."""
        if self._ended:
            raise ClosedError("this client was closed")

    def wait_for_place(self, state: _State, loan: _Loan, deadline: float) -> None:
        """Return when ``loan`` is among the first ``max_size`` ones."""
        state.loans[loan.reference] = None
        if len(state.loans) <= self._max_size:
            return
        loan.bell = SimpleQueue()
        began = monotonic()
        while not state.is_among_first(loan, self._max_size):
            self.refuse_if_closed()
            left = deadline - monotonic()
            if left <= 0:
                raise DatabaseUnavailableError(
                    f"no connection was free within {deadline - began:.3g} s: "
                    f"{self._max_size} are in use"
                )
            try:
                loan.bell.get(timeout=min(left, LOOK_INTERVAL))
            except Empty:
                continue

    def connection(self, state: _State, deadline: float) -> SyncConnection:
        """Return an idle connection that is alive, or a new one."""
        return state.pop_idle() or connect(
            self._dsn,
            application_name=self._application_name,
            prepared=self._prepared_statements,
            timeout=max(deadline - monotonic(), 0.0),
        )

    def give_back(self, state: _State, loan: _Loan, *, reusable: bool) -> None:
        """Take the connection of a loan, and end the loan."""
        connection = loan.connection
        try:
            if connection is None or connection.process != current_process():
                return  # in a child that was forked meanwhile it is the parent's
            if reusable and connection.is_idle() and not self._ended:
                state.idle.append(connection)
                if self._ended:
                    state.close_idle()
            else:
                connection.close()
        finally:
            loan.done = True
            state.loans.pop(loan.reference, None)
            if len(state.loans) >= self._max_size:
                state.call_first(self._max_size)


class _Loan(AbstractContextManager[SyncConnection]):
    """A connection lent for one ``with``.

    The pool knows it by a weak reference: should an exception come before ``__exit__`` does its
    work, the place is free again when the loan is deleted.
    """

    def __init__(self, pool: PsycopgSyncPool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._state: _State
        self.reference = weakref.ref(self)
        self.connection: SyncConnection | None = None
        self.bell: SimpleQueue[None] | None = None
        self.done = False

    def __enter__(self) -> SyncConnection:
        pool, deadline = self._pool, monotonic() + self._timeout
        pool.refuse_if_closed()
        state = self._state = pool._states.get()  # noqa: SLF001  (a part of it)
        try:
            pool.wait_for_place(state, self, deadline)
            self.connection = connection = pool.connection(state, deadline)
        except BaseException:
            pool.give_back(state, self, reusable=False)
            raise
        return connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        reusable = kind is None or issubclass(kind, RoostError)
        self._pool.give_back(self._state, self, reusable=reusable)


@attrs.define(eq=False)
class _State:
    """What one process has: who uses or waits for a connection, in order, and the idle ones."""

    loans: dict[weakref.ref[_Loan], None] = attrs.field(factory=dict)
    idle: deque[SyncConnection] = attrs.field(factory=deque)

    def is_among_first(self, loan: _Loan, most: int) -> bool:
        ahead = 0
        for reference in list(self.loans):
            other = reference()
            if other is loan:
                return ahead < most
            if other is None or other.done:
                self.loans.pop(reference, None)
            else:
                ahead += 1
        return False

    def call_first(self, most: int) -> None:
        for reference in list(self.loans)[:most]:
            loan = reference()
            if loan is not None and loan.bell is not None:
                loan.bell.put(None)

    def pop_idle(self) -> SyncConnection | None:
        while True:
            try:
                connection = self.idle.pop()
            except IndexError:
                return None
            if connection.is_alive():
                return connection
            connection.close()

    def close_idle(self) -> None:
        while True:
            try:
                self.idle.pop().close()
            except IndexError:
                return
