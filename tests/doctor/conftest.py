"""Examine the test's database, or a server of the tests in this folder alone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psycopg
import pytest
from tests.support.job_table import JobTable

from roost import Finding, FindingLevel, Roost
from roost.embedded import find_binaries, remove, server

_numbers = count(1)

SETTINGS: dict[str, object] = {"fsync": False, "max_prepared_transactions": 5}
SMALL_QUEUE = {"max_notify_queue_pages": 64}
"""The smallest queue of notifications, from Postgres 17 on."""


class Findings:
    """The findings of one examination, by check."""

    def __init__(self, found: list[Finding]) -> None:
        self.all = found

    def of(self, check: str) -> list[Finding]:
        return [finding for finding in self.all if finding.check == check]

    def one(self, check: str, subject: str | None = None) -> Finding:
        found = [each for each in self.of(check) if subject is None or each.subject == subject]
        assert len(found) == 1, found
        return found[0]

    def not_ok(self) -> set[str]:
        return {finding.check for finding in self.all if finding.level is not FindingLevel.OK}


Examine = Callable[[], Findings]


def examine_at(dsn: str) -> Findings:
    """Examine a database and close all connections."""
    with Roost(dsn) as client:
        return Findings(client.doctor())


@pytest.fixture
def examine(dsn: str) -> Examine:
    """Return a function that examines the test's database, which has no trouble of its own."""
    return lambda: examine_at(dsn)


@pytest.fixture(scope="module")
def own_server(run_folder: Path) -> Iterator[str]:
    """Yield the DSN of a server whose replication and queue of notifications tests may upset."""
    version = subprocess.run(
        [find_binaries() / "postgres", "--version"], capture_output=True, text=True, check=True
    )
    major = int(version.stdout.split()[2].split(".")[0])
    settings = SETTINGS | (SMALL_QUEUE if major >= 17 else {})
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    data_dir = run_folder / f"pg-doctor-{worker}-{next(_numbers)}"
    try:
        with server(data_dir, settings=settings) as pg:
            yield pg.dsn
    finally:
        remove(data_dir)


@pytest.fixture
def own(own_server: str) -> Iterator[JobTable]:
    """Yield the jobs of that server's database, which has a new schema."""
    with Roost(own_server) as client:
        client.setup_schema()
    try:
        with JobTable(own_server) as table:
            yield table
    finally:
        with psycopg.connect(own_server, autocommit=True) as admin:
            admin.execute("drop schema roost cascade")
