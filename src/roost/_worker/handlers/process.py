"""Run handlers in processes, for work that needs a CPU of its own or must be killable.

Each process serves one call after the other, over a socket of its own. A handler's output goes to
the worker's standard output and error. The worker pickles a request. An answer is JSON, so the
worker never unpickles data from a process.
"""

from __future__ import annotations

import contextlib
import multiprocessing.process
import os
import pickle
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from time import monotonic
from typing import IO, TYPE_CHECKING, Any

import anyio
import attrs

from roost._drivers.shield import shielded
from roost._model.codec import decode
from roost._model.job import Job
from roost._model.job_metadata import encoded_changes
from roost._model.logs import StructuredLogger
from roost._model.registry import Handler
from roost._model.telemetry import OTHER
from roost._model.verdict import (
    MAX_ERROR_CHARS,
    MAX_TRACE_CHARS,
    Ending,
    Raised,
    RemoteError,
    Returned,
    sanitize,
)
from roost._worker.handlers.job_metadata import record_changes
from roost._worker.handlers.process_child import (
    ANSWER,
    LEASE,
    MAX_ANSWER_BYTES,
    METADATA,
    REQUEST,
    STOP_SIGNALS,
)
from roost._worker.handlers.process_setup import pickled_setups
from roost._worker.running_job import RunningJob
from roost.exceptions import (
    CancelJob,
    DiscardJob,
    HandlerProcessError,
    RetryJob,
    RoostError,
    SnoozeJob,
)

if TYPE_CHECKING:
    from roost._worker.state import WorkerState

logger = StructuredLogger("roost.worker.process")

MAX_IDLE = 300.0
"""Seconds without a call after which a process is ended. This happens at the next call."""
CHECK_INTERVAL = 1.0
"""Seconds between two checks of a process at most. It may have ended while a child of its own keeps
the socket open, and the lease may have been renewed."""
EXIT_TIMEOUT = 1.0
"""Seconds for idle processes to end by themselves when the worker stops."""
END_TIMEOUT = 2.0
"""Seconds for that and for killed processes to end."""
_PROGRAM = (
    "import sys; sys.path[:] = {path!r}; from roost._worker.handlers.process_child import main; "
    "main({descriptors}, {worker}, {main_module!r}, {setups!r})"
)


@attrs.define(eq=False)
class _Process:
    """One process.

    :param channel: the socket for requests and answers.
    :param lifeline: the process ends when this is closed, also by the death of the worker.
    :param renewals: the pipe to which the worker writes the time at which its lease expires.
    :param calls: requests sent so far; the number of the last one.
    :param idle_since: the time of its last answer, by ``time.monotonic``.
    """

    popen: subprocess.Popen[bytes]
    channel: socket.socket
    lifeline: IO[bytes]
    renewals: IO[bytes]
    calls: int = 0
    idle_since: float = 0.0

    @classmethod
    def start(cls) -> _Process:
        """Start a process: a fresh interpreter, never a fork.

        It has a session of its own, so that signals from a terminal to the worker's process group
        do not reach it. The signals of a stop are blocked until its handlers for them are set.
        """
        ours, theirs = socket.socketpair()
        lifeline, kept = os.pipe()
        renewals, renewals_end = os.pipe()
        try:
            program = _PROGRAM.format(
                path=sys.path,
                descriptors=(theirs.fileno(), lifeline, renewals),
                worker=os.getpid(),
                main_module=_main_module(),
                setups=pickled_setups(),
            )
            blocked = signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
            try:
                popen = subprocess.Popen(  # noqa: S603  (this interpreter, with our own program)
                    [sys.executable, *_interpreter_flags(), "-u", "-c", program],
                    stdin=subprocess.DEVNULL,
                    pass_fds=(theirs.fileno(), lifeline, renewals),
                    start_new_session=True,
                )
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, blocked)
        except BaseException:
            ours.close()
            os.close(kept)
            os.close(renewals_end)
            raise
        finally:
            theirs.close()
            os.close(lifeline)
            os.close(renewals)
        ours.setblocking(False)
        os.set_blocking(renewals_end, False)
        return cls(
            popen,
            ours,
            os.fdopen(kept, "wb", buffering=0),
            os.fdopen(renewals_end, "wb", buffering=0),
        )

    async def ask(
        self, request: bytes, *, state: WorkerState, on_metadata: Callable[[str], None]
    ) -> Any:
        """Send a request and return the decoded answer. A cancel leaves the process unusable.

        :param on_metadata: is called with each change of the job's metadata, a JSON text.
        :param state: other workers may run the job from its ``lease_until`` on. The process ends
            itself at that time, since the worker may be suspended or blocked.
        :raises HandlerProcessError: the process ended, or its answer can't be read.
        """
        self.calls += 1
        try:
            await self._send(REQUEST.pack(self.calls, len(request), state.lease_until) + request)
            while True:
                number, size = ANSWER.unpack(await self._receive(ANSWER.size, state))
                if number & ~METADATA != self.calls or size > MAX_ANSWER_BYTES:
                    raise HandlerProcessError(
                        "the process of the handler wrote into Roost's channel"
                    )
                message = (await self._receive(size, state)).decode()
                if number == self.calls:
                    break
                on_metadata(message)
            answer = decode(message)
        except (OSError, EOFError):
            raise HandlerProcessError(await self._how_it_ended()) from None
        except ValueError:
            raise HandlerProcessError("the process of the handler answered no JSON") from None
        self.idle_since = monotonic()
        return answer

    async def _send(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            try:
                left = left[self.channel.send(left) :]
            except BlockingIOError:
                await anyio.wait_writable(self.channel)

    async def _receive(self, size: int, state: WorkerState) -> bytes:
        got, sent_lease = bytearray(), 0.0
        while len(got) < size:
            try:
                piece = self.channel.recv(min(size - len(got), 1 << 20))
            except BlockingIOError:
                # Polled before the wait, so that the bytes written before its end are read first.
                ended = self.popen.poll() is not None
                left = state.lease_until - monotonic()
                with anyio.move_on_after(min(CHECK_INTERVAL, max(left / 4, 0.01))):
                    await anyio.wait_readable(self.channel)
                    continue
                if state.lease_until != sent_lease:
                    sent_lease = state.lease_until
                    # A full pipe ignores the write: the process is stuck and reads nothing.
                    self.renewals.write(LEASE.pack(sent_lease))
                if ended:
                    raise EOFError from None
            else:
                if not piece:
                    raise EOFError
                got += piece
        return bytes(got)

    async def _how_it_ended(self) -> str:
        with anyio.move_on_after(CHECK_INTERVAL):
            await self.wait()
        code = self.popen.returncode
        if code is None:
            return "the process of the handler closed Roost's channel"
        if code < 0:
            name = signal.Signals(-code).name if -code in set(signal.Signals) else "a signal"
            return f"the process of the handler was killed by {name} ({-code}) before it answered"
        return f"the process of the handler ended with exit code {code} before it answered"

    @property
    def usable(self) -> bool:
        """Whether the process runs and can take a request."""
        return self.popen.poll() is None

    async def exit(self) -> None:
        """Let an idle process end by itself: it exports its last spans and flushes its logs."""
        self.channel.close()
        with _pidfd(self.popen) as ended:
            if ended is None:
                await self.wait()
            else:
                # Not reaped yet: `kill` ends those that it started, by its id.
                await anyio.wait_readable(ended)

    def kill(self) -> None:
        """Kill the process and those that it started. `wait` returns when it has ended."""
        if self.popen.returncode is None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(self.popen.pid, signal.SIGKILL)
            self.popen.kill()  # it may not lead a group of its own yet
        self.channel.close()
        self.lifeline.close()
        self.renewals.close()

    async def wait(self) -> None:
        """Return when the process has ended."""
        with _pidfd(self.popen) as ended:
            while self.popen.poll() is None:
                if ended is None:
                    await anyio.sleep(0.01)
                else:
                    await anyio.wait_readable(ended)


@contextlib.contextmanager
def _pidfd(popen: subprocess.Popen[bytes]) -> Iterator[int | None]:
    """Yield a descriptor that can be read when the process has ended; ``None``: there is none."""
    try:
        ended = os.pidfd_open(popen.pid)
    except (AttributeError, OSError):  # another system, or reaped already
        yield None
        return
    try:
        yield ended
    finally:
        os.close(ended)


class HandlerProcesses:
    """The processes of one worker, at most one for each slot."""

    def __init__(self, state: WorkerState) -> None:
        self._state = state
        self._idle: list[_Process] = []

    async def call(self, handler: Handler, args: dict[str, Any], *, running: RunningJob) -> Ending:
        """Call a handler in a process and return its ending.

        A cancel kills the process and those that it started, and waits until it has ended. The
        attempt fails if the process dies or can't be started.
        """
        record = partial(_record_metadata, running, self._state)
        try:
            job: Job = running.claimed.job()
            trace = running.trace and running.trace.in_process()
            request = pickle.dumps((handler.func, args, job, handler.rules, trace))
            process = self._take()
        except Exception as error:  # noqa: BLE001  (this job's failure alone)
            return Raised(error)
        try:
            answer = await process.ask(request, state=self._state, on_metadata=record)
        except HandlerProcessError as error:
            await self._end(process, running)
            return Raised(error)
        except BaseException:
            await self._end(process, running)
            raise
        self._idle.append(process)
        return _ending(answer)

    def _take(self) -> _Process:
        """Return the process that was used last, or a new one. End those idle for `MAX_IDLE`."""
        now = monotonic()
        while self._idle and now - self._idle[0].idle_since > MAX_IDLE:
            stale = self._idle.pop(0)
            stale.kill()
            stale.popen.wait()  # SIGKILL ends it at once
        while self._idle:
            process = self._idle.pop()
            if process.usable:
                return process
            process.kill()
        return _Process.start()

    async def _end(self, process: _Process, running: RunningJob) -> None:
        """Kill a process and hold the job's slot and lease until it is gone."""
        process.kill()
        await running.wait_uninterrupted(process.wait)
        if process.popen.returncode is None:
            # Only the kernel can keep it alive. Its job must not run elsewhere meanwhile.
            running.abandoned = True
            logger.error(
                "process %(pid)d of job %(job_id)d does not end",
                pid=process.popen.pid,
                **running.claimed.log_fields(),
            )

    async def aclose(self) -> None:
        """End the idle processes: by themselves, or killed after `EXIT_TIMEOUT` seconds."""
        idle, self._idle = self._idle, []
        with shielded(END_TIMEOUT):
            with anyio.move_on_after(EXIT_TIMEOUT):
                async with anyio.create_task_group() as group:
                    for process in idle:
                        group.start_soon(process.exit)
            for process in idle:
                process.kill()
            for process in idle:
                await process.wait()


def _record_metadata(running: RunningJob, state: WorkerState, message: str) -> None:
    """Have a change of the job's metadata written. One that is refused is logged."""
    try:
        record_changes(running, state, encoded_changes(decode(message)), soon=False)
    except (RoostError, ValueError) as error:
        logger.warning(
            "metadata of job %(job_id)d (%(task)s) is refused: %(error)s",
            **running.claimed.log_fields(),
            error=str(error),
        )


def _ending(answer: Any) -> Ending:
    """Return the ending that an answer describes.

    The handler may have written the answer itself, so each part of it is checked.
    """
    match answer:
        case {"result": str(text)}:
            try:
                return Returned(decode(text))
            except ValueError:
                error = HandlerProcessError("the process of the handler answered no JSON")
                return Raised(error)
        case {"snooze": float() | int() as seconds} if seconds >= 0:
            return Raised(SnoozeJob(seconds))
        case {"error": {"error": str(text), "trace": str(trace)}}:
            trace = sanitize(trace, MAX_TRACE_CHARS, keep_end=True)
            record = {"error": sanitize(text, MAX_ERROR_CHARS), "trace": trace}
            kind = answer.get("kind")
            kind = sanitize(kind, MAX_ERROR_CHARS) if isinstance(kind, str) else OTHER
            decision = _decision(answer)
            if decision is not None:
                return Raised(decision, record, kind=kind)
            permanent = answer.get("permanent") is True
            return Raised(RemoteError(record["error"]), record, permanent, kind)
        case _:
            return Raised(HandlerProcessError("the process of the handler gave no known answer"))


def _decision(answer: Any) -> CancelJob | DiscardJob | RetryJob | None:
    """Return what the handler has raised to decide about its job; ``None``: another error."""
    match answer:
        case {"cancel": str(reason)}:
            return CancelJob(reason)
        case {"discard": str(reason)}:
            return DiscardJob(reason)
        case {"retry": str(reason), "in": float() | int() as seconds} if seconds >= 0:
            return RetryJob(reason, in_=seconds)
        case {"retry": str(reason)}:
            return RetryJob(reason)
        case _:
            return None


def _main_module() -> dict[str, str]:
    """Return how to load this process's ``__main__`` in another one; empty: it can't be loaded."""
    module = sys.modules["__main__"]
    if (name := getattr(getattr(module, "__spec__", None), "name", None)) is not None:
        return {"init_main_from_name": name}
    if (path := getattr(module, "__file__", None)) is None:
        return {}
    start = multiprocessing.process.ORIGINAL_DIR  # type: ignore[attr-defined]  # not in the stubs
    return {"init_main_from_path": os.path.normpath(os.path.join(start or "", path))}  # noqa: PTH118


def _interpreter_flags() -> list[str]:
    """Return this interpreter's own options, such as ``-O`` and ``-W``."""
    flags: list[str] = subprocess._args_from_interpreter_flags()  # type: ignore[attr-defined]  # noqa: SLF001  (multiprocessing uses it too)
    return flags
