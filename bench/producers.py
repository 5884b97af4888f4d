"""Measure the cost of a notification at every commit for concurrent producers.

There is a trial with notifications and one without.

A commit that notifies takes a lock that the whole server shares, so producers queue up behind one
another. "Without" puts a function ``pg_notify`` that does nothing before the real one, by the
producers' search path. That works for any statement that calls `pg_notify` without a schema. The
trial fails if a notification is sent all the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import ExitStack
from typing import Literal, TypeAlias
from urllib.parse import quote

import psycopg
from bench import trials
from bench.lab import ROOT
from bench.peers.children import REPLY_TIMEOUT, ContestantError, run, started
from bench.peers.contestants import BASE, environment

from roost._worker.lanes.listen import JOBS

PROCESSES, THREADS = 4, 2
SCRIPT = ROOT / "bench" / "peers" / "roost_producers.py"

Worker: TypeAlias = Literal["none", "idle", "full", "draining"]
"""idle: it listens, and no job is due yet; full: every slot is taken, so it needs no more jobs;
draining: it runs what is produced."""

SILENT = """
create schema roost_bench;
create function roost_bench.pg_notify(text, text) returns void language plpgsql as 'begin end'"""


def produce(dsn: str, *, seconds: float, worker: Worker, silent: bool) -> trials.Figures:
    """Return the rate of eight producers of single jobs."""
    run(BASE, "setup", dsn)
    with ExitStack() as stack:
        listener = stack.enter_context(psycopg.connect(dsn, autocommit=True))
        if silent:
            listener.execute(SILENT)
            listener.execute(f'listen "{JOBS}"'.encode())
        if worker != "none":
            concurrency = 32 if worker == "draining" else 4
            working = stack.enter_context(started(BASE, "work", dsn, concurrency=concurrency))
        if worker == "full":
            run(BASE, "stream", dsn, rate=0, naps=4, seconds=REPLY_TIMEOUT)
        time.sleep(trials.SETTLE)
        if silent:
            list(listener.notifies(timeout=0))  # of the naps
        rate = _rate(_silent(dsn) if silent else dsn, seconds, later=worker == "idle")
        if silent and list(listener.notifies(timeout=0.1)):
            raise ContestantError("there are notifications where none should be")
        if worker != "none":
            working.kill()
    return {"jobs/s": rate}


def _silent(dsn: str) -> str:
    path = quote("-csearch_path=roost_bench,pg_catalog,public")
    return f"{dsn}{'&' if '?' in dsn else '?'}options={path}"


def _rate(dsn: str, seconds: float, *, later: bool) -> float:
    options = {"dsn": dsn, "seconds": seconds, "threads": THREADS, "later": later}
    command = [sys.executable, str(SCRIPT), json.dumps(options)]
    with ExitStack() as stack:
        processes = [
            stack.enter_context(
                subprocess.Popen(
                    command,
                    cwd=ROOT,
                    env=environment(BASE.peer),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for _ in range(PROCESSES)
        ]
        for process in processes:
            assert process.stdout is not None
            process.stdout.readline()
        begin = f"{time.monotonic() + 0.2}\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write(begin)
            process.stdin.flush()
        said = [process.communicate(timeout=REPLY_TIMEOUT)[0] for process in processes]
    if any(process.returncode for process in processes):
        raise ContestantError("a producer failed")
    return sum(int(json.loads(line)["sent"]) for line in said) / seconds
