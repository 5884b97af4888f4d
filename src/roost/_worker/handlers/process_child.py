"""The main function of the process that runs handlers declared with ``run_in="process"``.

It reads requests from a socket of its own and answers there in JSON. Standard output and error are
the handler's. It survives the signals that stop a worker, since the worker decides when it ends.
However the worker ends, this process ends with it.
"""

from __future__ import annotations

import contextlib
import decimal
import io
import math
import multiprocessing.spawn
import os
import pickle
import select
import signal
import socket
import struct
import sys
import threading
import time
import traceback
from collections.abc import Callable
from contextvars import copy_context
from typing import Any, assert_never

from roost._model.backoff import MAX_DELAY
from roost._model.codec import EncodingError, encode
from roost._model.failures import FailureRules, handler_decision
from roost._model.job import Job
from roost._model.job_metadata import as_object, metadata_writer
from roost._model.lazy import PLAIN_RESULTS, refuse_unawaited
from roost._model.verdict import (
    MAX_ERROR_CHARS,
    error_record,
    qualified_name,
    result_as_json,
    sanitize,
)
from roost._worker.handlers.current import current
from roost.exceptions import (
    CancelJob,
    DiscardJob,
    LeaseLostError,
    NoCurrentJobError,
    RetryJob,
    SnoozeJob,
)

REQUEST = struct.Struct("!QQd")
"""A request's number, the size in bytes of its body, and the time at which the lease expires."""
ANSWER = struct.Struct("!QQ")
"""The number of the answered request, and the size in bytes of the answer's body."""
LEASE = struct.Struct("!d")
"""When the renewed lease expires, by ``time.monotonic``; all processes of a machine share it."""
METADATA = 1 << 63
"""Set in the number of a message that is not the answer, but a change of the job's metadata."""
MAX_ANSWER_BYTES = 1 << 28
"""Bytes of an answer at most. A note replaces a larger result, and one that has no JSON form."""
STOP_SIGNALS = [
    signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
]
LEASE_INTERVAL = 0.5
"""Seconds between two checks of the lease, and of whether the worker is still the parent."""


def main(
    descriptors: tuple[int, int, int], worker: int, main_module: dict[str, str], setups: bytes
) -> None:
    """Serve requests until the worker closes the channel.

    :param descriptors: file descriptors of the channel, which is the socket for requests and
        answers; of the lifeline, a pipe of which only the worker holds the other end, and never
        writes to it; and of the pipe to which the worker writes the lease's expiry.
    :param worker: the worker's process id.
    :param main_module: how to load the worker's ``__main__``, as `multiprocessing.spawn` takes it.
    :param setups: the functions to call first, pickled.
    """
    channel, lifeline, renewals = descriptors
    for inherited in descriptors:
        os.set_inheritable(inherited, False)  # handlers may start processes
    _survive_stop_signals()
    watch = _Watch(lifeline, renewals, worker)
    watch.start()
    _run_setups(setups)
    with socket.socket(fileno=channel) as requests:
        while (header := _read(requests, REQUEST.size)) is not None:
            number, size, watch.lease_until = REQUEST.unpack(header)
            if (request := _read(requests, size)) is None:
                return
            messages = _Messages(requests, number)
            metadata_writer.set(messages)
            answer = _as_json(_run(request, main_module))
            watch.lease_until = math.inf
            messages.send_answer(answer)


def _run_setups(pickled: bytes) -> None:
    """Call the functions. One that raises does not stop the others."""
    for setup in pickle.loads(pickled):  # noqa: S301  (the worker's own)
        try:
            setup()
        except Exception:  # noqa: BLE001  (the process can do its work all the same)
            traceback.print_exc()


class _Messages:
    """Sends the messages of one call. Threads of the handler may send metadata meanwhile."""

    def __init__(self, channel: socket.socket, number: int) -> None:
        self._channel = channel
        self._number = number
        self._sending = threading.Lock()
        self._answered = False

    async def write_progress(self, job_id: int, changes: dict[str, str]) -> None:
        """Send the changes to the worker."""
        self.write_nowait(job_id, changes)

    async def write(self, job_id: int, changes: dict[str, str]) -> None:
        """Send the changes to the worker."""
        self.write_nowait(job_id, changes)

    def write_nowait(self, job_id: int, changes: dict[str, str]) -> None:
        """Send the changes to the worker, which writes them soon."""
        job = current.get(None)
        if not isinstance(job, Job) or job.id != job_id:
            raise NoCurrentJobError(f"job {job_id} is not the one that runs in this process")
        body = as_object(changes).encode()
        with self._sending:
            if self._answered:
                raise LeaseLostError(f"job {job_id} has ended")
            self._channel.sendall(ANSWER.pack(METADATA | self._number, len(body)) + body)

    def send_answer(self, answer: bytes) -> None:
        """Send the answer; it is the last message."""
        with self._sending:
            self._answered = True
            self._channel.sendall(ANSWER.pack(self._number, len(answer)) + answer)


def _read(requests: socket.socket, size: int) -> bytes | None:
    """Return ``size`` bytes; ``None``: the worker has closed the channel."""
    got = bytearray()
    while len(got) < size:
        piece = requests.recv(min(size - len(got), 1 << 20))
        if not piece:
            return None
        got += piece
    return bytes(got)


def _as_json(answer: dict[str, Any]) -> bytes:
    try:
        return encode(answer).encode()
    except EncodingError as error:  # a wait that is no number, for instance
        return encode(_error_answer(error)).encode()


def _run(request: bytes, main_module: dict[str, str]) -> dict[str, Any]:
    """Call the handler and return an answer of plain text and numbers."""
    try:
        func, args, job, rules, trace = _Request(request, main_module).load()
    except BaseException as error:  # noqa: BLE001  (SystemExit would end the process unanswered)
        return _error_answer(error)
    try:
        # A copy for each call: no call sees the context variables of the one before.
        decimals = decimal.getcontext().copy()
        result = copy_context().run(_call, func, args, job, decimals, trace)
    except BaseException as error:  # noqa: BLE001  (as above)
        try:
            return _describe(error, rules)
        except BaseException as failure:  # noqa: BLE001  (the error's own code may raise)
            return _error_answer(failure)
    if len(result) > MAX_ANSWER_BYTES // 2:
        note = f"{len(result):,} characters are more than a process may answer"
        result = encode({"roost.unserializable": note})
    return {"result": result}


def _error_answer(error: BaseException) -> dict[str, Any]:
    """Return the answer for an error, whatever it means for its job."""
    kind = qualified_name(type(handler_decision(error) or error))
    return {"error": error_record(error), "kind": kind}


def _describe(error: BaseException, rules: FailureRules) -> dict[str, Any]:
    """Return the answer for an error of the handler."""
    match decision := handler_decision(error):
        case None:
            return _error_answer(error) | {"permanent": rules.is_permanent(error)}
        case SnoozeJob():
            return {"snooze": min(float(decision.seconds), MAX_DELAY)}
    reason = sanitize(decision.reason, MAX_ERROR_CHARS)
    answer = _error_answer(error)
    match decision:
        case CancelJob():
            return answer | {"cancel": reason}
        case DiscardJob():
            return answer | {"discard": reason}
        case RetryJob():
            wait = None if decision.in_ is None else min(float(decision.in_), MAX_DELAY)
            return answer | {"retry": reason, "in": wait}
        case _:
            assert_never(decision)


def _call(
    func: Callable[..., Any],
    args: dict[str, Any],
    job: Job,
    decimals: decimal.Context,
    trace: Callable[[], object] | None,
) -> str:
    decimal.setcontext(decimals)
    current.set(job)
    if trace is not None:
        trace()
    value = func(**args)
    if type(value) not in PLAIN_RESULTS:
        refuse_unawaited(value)
    return result_as_json(value)


class _Request(pickle.Unpickler):
    """Unpickles a request of the worker: (function, keywords, job, failure rules, trace).

    The last is a function to call first, or ``None``.
    """

    def __init__(self, request: bytes, main_module: dict[str, str]) -> None:
        super().__init__(io.BytesIO(request))
        self._main_module = main_module

    def load(
        self,
    ) -> tuple[Callable[..., Any], dict[str, Any], Job, FailureRules, Callable[[], object] | None]:
        """Return the parts of the request."""
        func, args, job, rules, trace = super().load()
        return func, args, job, rules, trace

    def find_class(self, module: str, name: str) -> Any:
        """Return the named object, from a copy of the worker's ``__main__`` if it is defined there.

        The copy is loaded once, at the first such name.
        """
        if module == "__main__" and self._main_module:
            multiprocessing.spawn.prepare({**self._main_module})
            self._main_module.clear()
        return super().find_class(module, name)


def _survive_stop_signals() -> None:
    """Survive the stop signals that are sent to a whole process group or service.

    The signals get handlers that do nothing. Ignored signals would be inherited by the programs
    that a job starts. A fork of this process gets the default handlers back, so that it can be
    terminated.
    """
    heeded = [number for number in STOP_SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    for number in heeded:
        signal.signal(number, _do_nothing)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    # Blocked during a fork: a signal may reach the fork before it has set its handlers.
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


class _Watch:
    """Kills this process and those that it started when the worker ends or its lease expires.

    On Linux the kernel kills them as soon as the other end of the lifeline is closed. This works
    when the worker is killed by SIGKILL, and while the handler holds the interpreter lock. On other
    systems, and if a fork of the worker keeps that end open, a thread kills them. The thread also
    checks the lease: other workers may run the job while this worker is suspended or blocked.
    """

    def __init__(self, lifeline: int, renewals: int, worker: int) -> None:
        self.lease_until = math.inf  # while nothing runs
        self._lifeline = lifeline
        self._renewals = renewals
        self._worker = worker

    def start(self) -> None:
        """Ask the kernel to kill this process with the worker, and start the thread."""
        if sys.platform == "linux":
            import fcntl

            fcntl.fcntl(self._lifeline, fcntl.F_SETOWN, -os.getpgrp())
            fcntl.fcntl(self._lifeline, fcntl.F_SETSIG, signal.SIGKILL)
            flags = fcntl.fcntl(self._lifeline, fcntl.F_GETFL)
            fcntl.fcntl(self._lifeline, fcntl.F_SETFL, flags | os.O_ASYNC)
        threading.Thread(target=self._watch, name="roost parent watch", daemon=True).start()

    def _watch(self) -> None:
        poll = select.poll()
        poll.register(self._lifeline, select.POLLIN)
        poll.register(self._renewals, select.POLLIN)
        while os.getppid() == self._worker:
            # At most the check interval: a request may set a lease during the wait.
            left = min(LEASE_INTERVAL, self.lease_until - time.monotonic())
            ready = dict(poll.poll(max(0.0, left) * 1000))
            if self._lifeline in ready:
                break
            if self._renewals in ready:
                renewals = os.read(self._renewals, 1 << 12)
                if not renewals:
                    break
                self._renew(renewals)
            elif time.monotonic() >= self.lease_until:
                break
        with contextlib.suppress(ProcessLookupError):
            os.killpg(os.getpgrp(), signal.SIGKILL)
        time.sleep(LEASE_INTERVAL)  # until the signal has arrived
        os._exit(1)

    def _renew(self, renewals: bytes) -> None:
        """Use the newest renewal. A renewal that arrives after the answer is ignored."""
        if len(renewals) >= LEASE.size and self.lease_until < math.inf:
            [self.lease_until] = LEASE.unpack(renewals[-LEASE.size :])
