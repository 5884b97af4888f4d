"""The process that runs handlers declared with ``run_in="process"``: its main function.

It reads requests from a socket of its own and answers there in JSON; standard output and error are
the handler's. It survives the signals that stop a worker, for the worker decides when it ends, and
it dies with the worker, whatever ends that.
"""

from __future__ import annotations

import contextlib
import decimal
import fcntl
import multiprocessing.spawn
import os
import pickle
import select
import signal
import socket
import struct
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from typing import Any

from roost._model.codec import encode
from roost._model.job import Job
from roost._model.lazy import DONE, refuse_unawaited
from roost._model.verdict import error_record, result_as_json
from roost._worker.current import current
from roost.exceptions import SnoozeJob

HEADER = struct.Struct("!QQ")
"""The number of a request and the bytes that follow; the same in front of its answer."""
MOST_BYTES = 1 << 28
"""Of an answer. A larger result is replaced by a note, as one that has no JSON form is."""
STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
PARENT_INTERVAL = 1.0
"""Seconds between two looks whether the worker is still the parent."""


def main(channel: int, lifeline: int, worker: int, main_module: dict[str, str]) -> None:
    """Serve requests until the worker closes the channel.

    :param channel: the file descriptor of the socket that requests come from.
    :param lifeline: that of a pipe whose other end only the worker holds, and never writes to.
    :param worker: the worker's process id.
    :param main_module: how to load the worker's ``__main__``, as `multiprocessing.spawn` takes it.
    """
    for inherited in (channel, lifeline):
        os.set_inheritable(inherited, False)  # not by the processes that handlers start
    _survive_stop_signals()
    _die_with_the_worker(lifeline, worker)
    with socket.socket(fileno=channel) as requests:
        while (header := _read(requests, HEADER.size)) is not None:
            number, size = HEADER.unpack(header)
            if (request := _read(requests, size)) is None:
                return
            answer = encode(_run(request, main_module)).encode()
            requests.sendall(HEADER.pack(number, len(answer)) + answer)


def _read(requests: socket.socket, size: int) -> bytes | None:
    """Return ``size`` bytes; ``None``: the worker has closed the channel."""
    got = bytearray()
    while len(got) < size:
        piece = requests.recv(min(size - len(got), 1 << 20))
        if not piece:
            return None
        got += piece
    return bytes(got)


def _run(request: bytes, main_module: dict[str, str]) -> dict[str, Any]:
    """Call the handler; what comes back is plain text and numbers, whatever it made."""
    try:
        func, args, job = _Request(request, main_module).load()
        # Nothing that a call sets is left for the next one.
        decimals = decimal.getcontext().copy()
        result = copy_context().run(_call, func, args, job, decimals)
    except SnoozeJob as snooze:
        return {"snooze": float(snooze.seconds)}
    except BaseException as error:  # noqa: BLE001  (SystemExit would end the process unanswered)
        return {"error": error_record(error)}
    if len(result) > MOST_BYTES // 2:
        note = f"{len(result):,} characters are more than a process may answer"
        result = encode({"roost.unserializable": note})
    return {"result": result}


def _call(
    func: Callable[..., Any], args: dict[str, Any], job: Job, decimals: decimal.Context
) -> str:
    decimal.setcontext(decimals)
    current.set(job)
    value = func(**args)
    if type(value) not in DONE:
        refuse_unawaited(value)
    return result_as_json(value)


class _Request(pickle.Unpickler):
    """What the worker wants called: (function, keywords, job)."""

    def __init__(self, request: bytes, main_module: dict[str, str]) -> None:
        import io

        super().__init__(io.BytesIO(request))
        self._main_module = main_module

    def load(self) -> tuple[Callable[..., Any], dict[str, Any], Job]:
        """Return the function, its keywords and the job."""
        func, args, job = super().load()
        return func, args, job

    def find_class(self, module: str, name: str) -> Any:
        """Look a name up, in a copy of the worker's ``__main__`` if it is from there."""
        if module == "__main__" and self._main_module:
            # Once: the second time there is nothing to load.
            multiprocessing.spawn.prepare({**self._main_module})
            self._main_module.clear()
        return super().find_class(module, name)


def _survive_stop_signals() -> None:
    """Do nothing at a signal that went to the whole process group, or to the whole service.

    Handlers that do nothing, instead of ignored signals, which the programs that a job starts would
    inherit; a fork of this process gets the default back, so that it can be terminated.
    """
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    # Blocked meanwhile: a fork may be sent one before it has changed anything.
    def block() -> None:
        masks.append(signal.pthread_sigmask(signal.SIG_BLOCK, heeded))

    def unblock() -> None:
        signal.pthread_sigmask(signal.SIG_SETMASK, masks.pop())

    def stop_surviving() -> None:
        for number in heeded:
            if signal.getsignal(number) is _do_nothing:
                signal.signal(number, signal.SIG_DFL)
        unblock()

    masks: list[set[int]] = []
    os.register_at_fork(before=block, after_in_parent=unblock, after_in_child=stop_surviving)


def _do_nothing(*_: object) -> None:
    """A signal handler."""


def _die_with_the_worker(lifeline: int, worker: int) -> None:
    """End this process and what it started when the worker ends, also by SIGKILL.

    On Linux the kernel does it, as soon as the other end of the pipe is closed: also while the
    handler holds the interpreter lock. Elsewhere, and where a fork of the worker keeps that end
    open, a thread does.
    """
    if hasattr(fcntl, "F_SETSIG"):
        fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())
        fcntl.fcntl(lifeline, fcntl.F_SETSIG, signal.SIGKILL)
        flags = fcntl.fcntl(lifeline, fcntl.F_GETFL)
        fcntl.fcntl(lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
    threading.Thread(
        target=_watch, args=(lifeline, worker), name="roost parent watch", daemon=True
    ).start()


def _watch(lifeline: int, worker: int) -> None:
    poll = select.poll()
    poll.register(lifeline, select.POLLIN)
    while os.getppid() == worker and not poll.poll(int(PARENT_INTERVAL * 1000)):
        pass
    with contextlib.suppress(ProcessLookupError):
        os.killpg(os.getpgrp(), signal.SIGKILL)
    time.sleep(PARENT_INTERVAL)  # the signal is on its way
    os._exit(1)
