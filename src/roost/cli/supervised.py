"""A worker process under a supervisor: take its orders, and tell it what this process does.

The two share a socket. Orders need no signal, so they are not confused with a signal that the whole
process group got. The end of the supervisor closes its side, even by ``kill -9``: this process then
stops in order. Linux could also send a signal then (``PR_SET_PDEATHSIG``). But it does so at the
end of the thread that started this process, and tells no more than the closed socket.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Self

from roost._model.logs import StructuredLogger
from roost.exceptions import InvalidSettingError

logger = StructuredLogger("roost.cli")

EARLY_EXIT_TIMEOUT = 2.0
"""Seconds for Python's own exit after an order that came before the worker started."""
WRONG_CALL = 2
"""Exit code of a process whose options or modules are wrong."""
LAST_ORDER = 3
"""The order that ends the process at once."""


class SupervisorLink:
    """The socket between this worker process and its supervisor. It stays open to the end.

    Each byte from the supervisor is an order to stop; the first, second and third mean what the
    first, second and third signal mean. The end of the supervisor is a first order.

    It is also the ``task_status`` of `Worker.run`, to tell the supervisor when the worker is ready.

    :param number: which of the supervisor's worker processes this is, from 1.
    """

    def __init__(self, fd: int, number: int) -> None:
        self.number = number
        self._fd = fd
        self._orders = 0
        self._changing = threading.Lock()
        self._early_exit = threading.Timer(EARLY_EXIT_TIMEOUT, os._exit, [1])
        self._early_exit.daemon = True
        self._on_order: Callable[[int], object] = self._exit_early
        threading.Thread(target=self._listen, name="roost supervisor", daemon=True).start()

    @classmethod
    def open(cls, given: str) -> Self:
        """Return the link that the hidden option ``--supervised FD:NUMBER`` names.

        :raises InvalidSettingError: the supervisor did not pass such a socket.
        """
        fd, _, number = given.partition(":")
        try:
            if not stat.S_ISSOCK(os.fstat(int(fd)).st_mode):
                raise ValueError(f"{fd} is no socket")
            os.set_inheritable(int(fd), False)
            return cls(int(fd), int(number))
        except (OSError, OverflowError, ValueError) as error:
            raise InvalidSettingError(
                f"--supervised is for processes that `roost run` starts: {error}"
            ) from error

    def tell_grace(self, seconds: float) -> None:
        """Tell how long running jobs get after the first order."""
        self._tell(f"grace {seconds}\n")

    def started(self, _value: None = None) -> None:
        """Tell that the worker is ready to run jobs. Named as in anyio's ``TaskStatus``."""
        self._tell("ready\n")

    @contextmanager
    def reporting_wrong_calls(self) -> Iterator[None]:
        """Exit with 2 at a wrong setting or module. The supervisor prints the error.

        Every process of it finds the same error, which is printed once.
        """
        try:
            yield
        except InvalidSettingError as error:
            self._tell(f"error {json.dumps(str(error))}\n")
            sys.exit(WRONG_CALL)

    def _tell(self, line: str) -> None:
        with suppress(OSError):  # the supervisor is gone; the thread notices it too
            os.write(self._fd, line.encode())

    @contextmanager
    def orders_to(self, on_order: Callable[[int], object]) -> Iterator[None]:
        """Call ``on_order`` with the number of each order, from another thread.

        Also with the order that came before. Afterwards orders have no effect: the process ends.
        """
        with self._changing:
            self._early_exit.cancel()
            self._on_order = on_order
            if self._orders:
                on_order(self._orders)
        try:
            yield
        finally:
            with self._changing:
                self._on_order = lambda _: None

    def _listen(self) -> None:
        received = b"."
        while received:
            try:
                received = os.read(self._fd, 64)
            except OSError:  # the supervisor ended with unread messages of ours
                received = b""
            with self._changing:
                if received:
                    self._orders = min(self._orders + len(received), LAST_ORDER)
                else:
                    logger.warning("the supervisor process is gone: this worker process stops")
                    self._orders = max(self._orders, 1)
                self._on_order(self._orders)

    def _exit_early(self, _order: int) -> None:
        """End this process: it holds no job yet."""
        if not self._early_exit.is_alive():
            self._early_exit.start()
            os.kill(os.getpid(), signal.SIGTERM)
