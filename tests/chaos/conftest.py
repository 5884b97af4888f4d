"""Workers as processes of their own, to be stopped, killed and cut off from their database."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable
from tests.support.proxy import Proxy, proxy_to

from roost._ops.control import cancel_job

FOLDER = Path(__file__).parent
ROOT = FOLDER.parents[1]
WITHIN = 20.0
"""Seconds that a test waits for an event at most. Promised bounds are asserted separately."""


@attrs.frozen
class Entry:
    """A line of the journal; ``at`` is by `time.monotonic`."""

    event: str
    job_id: int
    attempt: int
    pid: int
    at: float


@attrs.frozen
class WorkerProcess:
    """A ``roost run``."""

    process: subprocess.Popen[bytes]
    log_file: Path

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        return self.log_file.read_text()

    def logged(self, text: str, *, within: float = WITHIN) -> None:
        """Wait until ``text`` is in the log."""
        until(lambda: text in self.log or self.process.poll() is not None, within=within)
        assert text in self.log, f"ended with {self.process.returncode} before it logged {text!r}"

    def send(self, number: signal.Signals) -> float:
        """Send a signal and return when."""
        now = time.monotonic()
        self.process.send_signal(number)
        return now

    def ended(self, *, within: float = WITHIN) -> tuple[int, float]:
        """Wait for its end; return its code, and when."""
        code = self.process.wait(timeout=within)
        return code, time.monotonic()

    def kill(self) -> float:
        """Kill it by SIGKILL, and return when it had ended."""
        self.process.kill()
        return self.ended()[1]


@attrs.define(eq=False)
class Chaos:
    """Worker processes on one database, their journal, and the table of jobs."""

    dsn: str
    folder: Path
    workers: list[WorkerProcess] = attrs.field(factory=list)
    table: JobTable = attrs.field(init=False)
    measured: dict[str, Any] = attrs.field(factory=dict)

    until = staticmethod(until)

    def __attrs_post_init__(self) -> None:
        self.table = JobTable(self.dsn)

    def start(
        self,
        backend: str = "asyncio",
        *flags: str,
        dsn: str | None = None,
        queues: tuple[str, ...] = ("default",),
        constants: dict[str, float] | None = None,
        **options: object,
    ) -> WorkerProcess:
        """Start a worker and return at once; ``options`` are those of `roost.WorkerSettings`."""
        command = [sys.executable, "-m", "roost", "run", "-m", "tasks", "--backend", backend]
        command += [*flags, *(f"--queue={queue}" for queue in queues)]
        command += [f"--{name.replace('_', '-')}={value}" for name, value in options.items()]
        log_file = self.folder / f"worker-{len(self.workers)}-{backend}.log"
        environment = {
            **os.environ,
            "ROOST_DSN": dsn or self.dsn,
            "PYTHONPATH": str(ROOT),  # of tests.support
            "ROOST_LOG_JSON": "0",
            "CHAOS_FOLDER": str(self.folder),
            "CHAOS_CONSTANTS": json.dumps(constants or {}),
        }
        with log_file.open("wb") as log:
            process = subprocess.Popen(
                command, cwd=FOLDER, env=environment, stdout=log, stderr=log, start_new_session=True
            )
        self.workers.append(WorkerProcess(process, log_file))
        return self.workers[-1]

    def start_ready(self, *backends: str, **options: Any) -> list[WorkerProcess]:
        """Start a worker on each backend, side by side, and wait until all are ready."""
        started = [self.start(backend, **options) for backend in backends]
        for worker in started:
            worker.logged("worker is ready")
        return started

    def worker(self, pid: int) -> WorkerProcess:
        """Return the worker with that process id."""
        return next(worker for worker in self.workers if worker.pid == pid)

    def others(self, than: WorkerProcess) -> list[WorkerProcess]:
        """Return the other workers that run."""
        return [w for w in self.workers if w is not than and w.process.poll() is None]

    def open(self, gate: str) -> float:
        """Open the gate that handlers wait at, and return when."""
        (self.folder / gate).touch()
        return time.monotonic()

    def hold(self, task: str = "hold", *, gate: str = "gate", **fields: Any) -> int:
        """Add a job that runs until its gate is opened."""
        return self.table.add(task, args={"gate": gate}, **fields)

    def journal(self, job_id: int | None = None, event: str | None = None) -> list[Entry]:
        """Return the entries that the handlers have written."""
        try:
            lines = (self.folder / "journal").read_text().splitlines()
        except FileNotFoundError:
            return []
        entries = [Entry(**json.loads(line)) for line in lines]
        return [
            entry
            for entry in entries
            if job_id in (None, entry.job_id) and event in (None, entry.event)
        ]

    def starts(self, job_id: int) -> list[Entry]:
        """Return the starts of one job."""
        return self.journal(job_id, "started")

    def started(self, job_id: int, *, times: int = 1) -> Entry:
        """Wait until the job's handler has started ``times`` times, and return the last start."""
        until(lambda: len(self.starts(job_id)) >= times)
        return self.starts(job_id)[times - 1]

    def reached(self, job_id: int, state: str, *, within: float = WITHIN) -> float:
        """Wait until the job is in ``state``; return when that was seen."""
        until(lambda: self.table.get(job_id).state == state, within=within)
        return time.monotonic()

    def ends(self, job_ids: list[int], state: str) -> None:
        """Wait until every one of the jobs is in ``state``."""
        count = "select count(*) from roost.jobs where id = any ($1::bigint[]) and state = $2::text"
        until(lambda: self.table.value(count, job_ids, state) == len(job_ids))

    def cancel(self, job_id: int) -> str:
        """Cancel a job; return the state that the cancel left it in."""
        with self.table.connection.transaction():
            assert self.table.run(cancel_job(job_id))
            return str(self.table.column(job_id, "state"))

    def reconnect(self) -> None:
        """Open the table anew, after a restart of the server."""
        self.table.connection.close()
        self.table = JobTable(self.dsn)

    def measure(self, name: str, value: float) -> None:
        """Keep a figure for the report of the run: shown with ``-rP``, and when a test fails."""
        self.measured[name] = round(value, 3)

    def close(self) -> None:
        """Kill every worker and print its log."""
        for worker in self.workers:
            worker.process.kill()
            worker.process.wait()
        self.table.connection.close()
        for name, value in self.measured.items():
            print(f"measured: {name}: {value}")
        for worker in self.workers:
            print(f"--- {worker.log_file.name}, pid {worker.pid}\n{worker.log}")


@pytest.fixture
def chaos(dsn: str, tmp_path: Path) -> Iterator[Chaos]:
    """Yield worker processes with a database of their own. They are killed at the end."""
    chaos = Chaos(dsn, tmp_path)
    try:
        yield chaos
    finally:
        chaos.close()


@pytest.fixture
def restartable_chaos(restartable_server: Any, tmp_path: Path) -> Iterator[Chaos]:
    """Yield the same on a server of the test's own, ``restartable_server``."""
    chaos = Chaos(restartable_server.dsn, tmp_path)
    try:
        yield chaos
    finally:
        chaos.close()


@attrs.frozen
class Wire:
    """The network between a worker and its database: ``dsn`` leads through it."""

    dsn: str
    proxy: Proxy
    portal: BlockingPortal

    def swallow(self) -> None:
        """Lose every byte from now on, and close nothing."""
        self.portal.call(self.proxy.swallow)

    def forward(self) -> None:
        """Forward bytes again. Connections that lost bytes stay broken."""
        self.portal.call(self.proxy.forward)

    def cut(self) -> None:
        """End every connection."""
        self.portal.call(self.proxy.cut)


@pytest.fixture
def wire(chaos: Chaos) -> Iterator[Wire]:
    """Yield a network to the database of ``chaos``."""
    given = conninfo_to_dict(chaos.dsn)
    host, port = str(given.get("host") or "127.0.0.1"), int(given.get("port") or 5432)
    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(proxy_to(host, port)) as proxy,
    ):
        dsn = make_conninfo(chaos.dsn, host="127.0.0.1", port=proxy.port, sslmode="disable")
        yield Wire(dsn, proxy, portal)
