"""A pool of blocking connections for threads. It has no background thread.

A signal handler may raise between any two steps here, and the process may be forked at any time. So
there is no lock and no counter. A connection is in use while its `_Loan` is registered and alive.
Every change of state is one call of a dict's or a deque's method.
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

CHECK_INTERVAL = 0.1
"""Seconds after which a waiting thread checks its turn again. Usually it is woken before."""


class PsycopgSyncPool:
    """Lends up to ``max_size`` connections, opened when needed. The last returned is lent first.

    A forked process starts without connections, and leaves those of its parent alone.
    """

    def __init__(self, dsn: str, *, max_size: int, application_name: str = "roost") -> None:
        self._dsn = dsn
        self._max_size = max_size
        self._application_name = application_name
        self._prepared_statements = PreparedStatements()
        self._is_closed = False
        self._states = PerProcess(_State)

    def acquire(self, *, timeout: float = CALL_TIMEOUT) -> AbstractContextManager[SyncConnection]:
        """Lend a connection for one ``with``.

        If the block ends with an error that is not a `RoostError`, the connection is closed, since
        its state is unknown.

        :param timeout: seconds to wait until a connection is free and open.
        :raises DatabaseUnavailableError: none was free in time, or the server can't be reached.
        :raises ClosedError: the pool was closed.
        """
        return _Loan(self, timeout)

    def close(self) -> None:
        """Close every idle connection now, and each lent one when it is returned."""
        self._is_closed = True
        self._states.get().close_idle()

    def refuse_if_closed(self) -> None:
        """Raise `ClosedError` if the pool was closed."""
        if self._is_closed:
            raise ClosedError("this client was closed")

    def wait_for_turn(self, state: _State, loan: _Loan, deadline: float) -> None:
        """Return when ``loan`` is among the first ``max_size`` loans."""
        state.loans[loan.reference] = None
        if len(state.loans) <= self._max_size:
            return
        loan.turn = SimpleQueue()
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
                loan.turn.get(timeout=min(left, CHECK_INTERVAL))
            except Empty:
                continue

    def connection(self, state: _State, deadline: float) -> SyncConnection:
        """Return an idle connection that is usable, or a new one."""
        return state.pop_idle() or connect(
            self._dsn,
            application_name=self._application_name,
            prepared=self._prepared_statements,
            timeout=max(deadline - monotonic(), 0.0),
        )

    def take_back(self, state: _State, loan: _Loan, *, reusable: bool) -> None:
        """End a loan: keep its connection for the next one, or close it."""
        connection = loan.connection
        try:
            if connection is None or connection.process != current_process():
                return  # it belongs to the process that this one was forked from
            if reusable and connection.is_idle() and not self._is_closed:
                state.idle.append(connection)
                if self._is_closed:
                    state.close_idle()
            else:
                connection.close()
        finally:
            loan.done = True
            state.loans.pop(loan.reference, None)
            if len(state.loans) >= self._max_size:
                state.wake_first(self._max_size)


class _Loan(AbstractContextManager[SyncConnection]):
    """A connection lent for one ``with``.

    The pool keeps only a weak reference to it. If a signal handler raises before ``__exit__`` has
    done its work, the loan ends when it is deleted.
    """

    def __init__(self, pool: PsycopgSyncPool, timeout: float) -> None:
        self._pool = pool
        self._timeout = timeout
        self._state: _State
        self.reference = weakref.ref(self)
        self.connection: SyncConnection | None = None
        self.turn: SimpleQueue[None] | None = None
        self.done = False

    def __enter__(self) -> SyncConnection:
        pool, deadline = self._pool, monotonic() + self._timeout
        pool.refuse_if_closed()
        state = self._state = pool._states.get()  # noqa: SLF001  (a part of the pool)
        try:
            pool.wait_for_turn(state, self, deadline)
            self.connection = connection = pool.connection(state, deadline)
        except BaseException:
            pool.take_back(state, self, reusable=False)
            raise
        return connection

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        reusable = kind is None or issubclass(kind, RoostError)
        self._pool.take_back(self._state, self, reusable=reusable)


@attrs.define(eq=False)
class _State:
    """The state in one process: the loans in their order, and the idle connections."""

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

    def wake_first(self, most: int) -> None:
        for reference in list(self.loans)[:most]:
            loan = reference()
            if loan is not None and loan.turn is not None:
                loan.turn.put(None)

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
