"""psycopg's AsyncConnection with every wait made by anyio, for asyncio, uvloop and trio.

psycopg's protocol is generators that do no waiting. Cursors, transactions, COPY and pipelines reach
the event loop only through ``lock`` and ``wait``. Those two, ``connect`` and the cancel request are
replaced here. ``psycopg_common.private_names`` lists the undocumented names that are used.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Generator
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
import psycopg
from psycopg import pq
from psycopg.adapt import AdaptersMap
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import AsyncRowFactory, Row

from roost._drivers.base import cleanup_timeout
from roost._drivers.polling import READ, WRITE
from roost._drivers.psycopg_anyio import opening
from roost._drivers.psycopg_anyio.waiting import PendingQuery, until_ready
from roost._drivers.psycopg_common.private_names import check_connection
from roost._drivers.shield import shielded

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from types import TracebackType
    from typing import Self

    from psycopg.abc import AdaptContext, ConnParam

T = TypeVar("T")


class AnyioConnection(psycopg.AsyncConnection[Row]):
    """A psycopg connection for any event loop that anyio runs on.

    A cancel cancels the statement in flight on the server and waits for its answer, for at most
    ``cleanup_timeout()`` seconds; then the connection is closed. BEGIN, COMMIT and ROLLBACK are not
    cancelled on the server, only awaited, with the same limit. So afterwards the connection is
    either usable or closed. A second native cancel (``Task.cancel``) ignores the shield, and closes
    the connection.
    """

    def __init__(self, pgconn: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(pgconn, *args, **kwargs)
        check_connection(self)
        self.lock = _Lock()  # type: ignore[assignment]  # psycopg only enters and leaves it
        self._no_cancel_request = 0

    @classmethod
    async def connect(
        cls,
        conninfo: str = "",
        *,
        autocommit: bool = False,
        prepare_threshold: int | None = 5,
        context: AdaptContext | None = None,
        row_factory: AsyncRowFactory[Any] | None = None,
        cursor_factory: type[psycopg.AsyncCursor[Any]] | None = None,
        **kwargs: ConnParam,
    ) -> AnyioConnection[Any]:
        """Connect. Each address is tried for ``connect_timeout`` seconds.

        A cancel leaves nothing open.

        :raises psycopg.OperationalError: none of the addresses could be reached.
        """
        self = cls(await opening.connect(conninfo_to_dict(conninfo, **kwargs)))
        await self.set_autocommit(autocommit)
        if row_factory:
            self.row_factory = row_factory
        if cursor_factory:
            self.cursor_factory = cursor_factory
        if context:
            self._adapters = AdaptersMap(context.adapters)
        self.prepare_threshold = prepare_threshold
        return self

    async def wait(
        self,
        gen: Generator[int, Any, T],
        interval: float = 0.0,  # noqa: ARG002  (psycopg passes it; nothing here polls)
        timeout: float | None = None,
    ) -> T:
        """Run one of psycopg's generators to its end.

        :param timeout: seconds; with zero it still reads once what has arrived.
        """
        if timeout is None:
            return await self._wait(gen)
        with anyio.move_on_after(max(timeout, 0.001)):
            return await self._wait(gen)
        raise psycopg.errors._WaitTimeout("wait timeout expired")  # noqa: SLF001

    async def _wait(self, gen: Generator[int, Any, T]) -> T:
        fd = self.pgconn.socket
        try:
            wanted = next(gen)
            while True:
                try:
                    ready = await until_ready(fd, wanted)
                except BaseException:
                    await self._cancel_in_flight(PendingQuery(gen, wanted, fd))
                    raise
                wanted = gen.send(ready)
        except StopIteration as stop:
            value: T = stop.value
            return value

    async def _cancel_in_flight(self, pending: PendingQuery) -> None:
        """After an interruption, end the statement in flight, or close the connection."""
        if self.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        ended = False
        try:
            with shielded(cleanup_timeout()):
                if not self._no_cancel_request:
                    await self._cancel_until_ended(pending)
                else:
                    await pending.finish()
                ended = True
        except psycopg.Error:
            pass  # the cancel request failed; the interruption is reported, not this
        finally:
            if not ended:
                self.terminate()

    async def _cancel_until_ended(self, pending: PendingQuery) -> None:
        # The server ignores a cancel request that arrives before its statement. So repeat it.
        pause = 0.1
        while True:
            await self._request_cancel()
            with anyio.move_on_after(pause):
                await pending.finish()
                return
            pause *= 2

    async def _request_cancel(self) -> None:
        if not psycopg.capabilities.has_cancel_safe():  # libpq < 17
            request = self.pgconn.get_cancel()
            await anyio.to_thread.run_sync(request.cancel, abandon_on_cancel=True)
            return
        cancel = self.pgconn.cancel_conn()
        try:
            cancel.start()
            while (status := cancel.poll()) != pq.PollingStatus.OK:
                if status == pq.PollingStatus.FAILED:
                    raise psycopg.OperationalError(cancel.get_error_message())
                reading = status == pq.PollingStatus.READING
                await until_ready(cancel.socket, READ if reading else WRITE)
        finally:
            cancel.finish()

    async def cancel_safe(self, *, timeout: float = 30.0) -> None:
        """Ask the server to cancel the statement in flight, for ``timeout`` seconds at most."""
        if not self._should_cancel():
            return
        with anyio.move_on_after(timeout):
            await self._request_cancel()
            return
        raise psycopg.errors.CancellationTimeout("cancellation timeout expired")

    async def commit(self) -> None:
        """Commit. A cancel waits for the answer first, for ``cleanup_timeout()`` seconds."""
        with self._without_cancel_request():
            await super().commit()

    async def rollback(self) -> None:
        """Roll back. A cancel waits for the answer first, for ``cleanup_timeout()`` seconds."""
        with self._without_cancel_request():
            await super().rollback()

    @asynccontextmanager
    async def transaction(
        self, savepoint_name: str | None = None, force_rollback: bool = False
    ) -> AsyncIterator[psycopg.AsyncTransaction]:
        """Do as psycopg's, but await BEGIN, COMMIT and ROLLBACK also when cancelled."""
        transaction = _Transaction(self, savepoint_name, force_rollback)
        if self._pipeline:
            async with self.pipeline(), transaction, self.pipeline():
                yield transaction
        else:
            async with transaction:
                yield transaction

    async def close(self) -> None:
        """Close without waiting for the server; safe to call twice."""
        if not self.closed:
            anyio.notify_closing(self.pgconn.socket)
        await super().close()

    def terminate(self) -> None:
        """Close without waiting, and wake tasks that wait for it; safe to call twice."""
        if not self.closed:
            anyio.notify_closing(self.pgconn.socket)
        self.pgconn.finish()

    @contextmanager
    def _without_cancel_request(self) -> Iterator[None]:
        self._no_cancel_request += 1
        try:
            yield
        finally:
            self._no_cancel_request -= 1


class _Transaction(psycopg.AsyncTransaction):
    async def __aenter__(self) -> Self:
        await anyio.lowlevel.checkpoint_if_cancelled()
        with self._without_cancel_request():
            return await super().__aenter__()

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        with self._without_cancel_request():
            return await super().__aexit__(exc_type, exc_val, exc_tb)

    def _without_cancel_request(self) -> AbstractContextManager[None]:
        connection = self.connection
        assert isinstance(connection, AnyioConnection)  # noqa: S101  (only it makes one)
        return connection._without_cancel_request()  # noqa: SLF001  (one class in two parts)


class _Lock:
    """A lock without an owner. A cancelled task can still take it if it is free.

    psycopg's ``notifies()`` holds the lock across a yield, so another task may release it, which
    anyio.Lock refuses. And a cancelled task must be able to run its ROLLBACK.
    """

    def __init__(self) -> None:
        self._semaphore = anyio.Semaphore(1, fast_acquire=True)

    async def __aenter__(self) -> None:
        try:
            self._semaphore.acquire_nowait()
        except anyio.WouldBlock:
            await self._semaphore.acquire()

    async def __aexit__(self, *_: object) -> None:
        self._semaphore.release()
