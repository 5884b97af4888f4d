"""Workers keep their promises whatever happens between them and the database."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import settings
from hypothesis.stateful import run_state_machine_as_test
from property_tests.lanes.clock import prepare_database
from property_tests.lanes.database import Server
from property_tests.lanes.mutants import (
    Mutant,
    a_called_waiter_calls_no_other,
    inserts_stamped_with_the_transaction,
)
from property_tests.lanes.scripts import (
    SCRIPTS,
    a_limited_job_stands_behind_others,
    a_producer_has_a_long_transaction,
)
from property_tests.machines.lanes import Lanes
from property_tests.machines.waiting import Waiters


@contextmanager
def server_on(databases: Any, run_folder: Path) -> Iterator[Server]:
    path = run_folder / f"clock-{uuid.uuid4().hex}"
    with databases.fresh("template0") as name:
        dsn = databases.dsn_for(name)
        prepare_database(dsn, path)
        with closing(Server(dsn, path)) as server:
            yield server


@pytest.fixture(scope="module")
def server(databases_alone: Any, run_folder: Path) -> Iterator[Server]:
    with server_on(databases_alone, run_folder) as server:
        yield server


def test_workers_keep_their_promises(server: Server) -> None:
    class LanesHere(Lanes):
        def __init__(self) -> None:
            super().__init__(server)

    few = settings(stateful_step_count=12, max_examples=settings().max_examples // 15)
    run_state_machine_as_test(LanesHere, settings=few)


@pytest.mark.parametrize("mutant", SCRIPTS, ids=lambda mutant: mutant.__name__)
def test_a_mutant_of_the_worker_fails(
    server: Server, mutant: Mutant, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_script(server, SCRIPTS[mutant])
    mutant(monkeypatch)
    with pytest.raises(AssertionError, match="at "):
        run_script(server, SCRIPTS[mutant])


def test_inserts_that_are_stamped_with_their_transaction_fail(
    databases_alone: Any, run_folder: Path
) -> None:
    with server_on(databases_alone, run_folder) as server:
        run_script(server, a_producer_has_a_long_transaction)
        with psycopg.connect(server.dsn, autocommit=True) as connection:
            inserts_stamped_with_the_transaction(connection)
        with pytest.raises(AssertionError, match="stamped"):
            run_script(server, a_producer_has_a_long_transaction)


def test_every_waiter_is_told(server: Server) -> None:
    class WaitersHere(Waiters):
        def __init__(self) -> None:
            super().__init__(server)

    few = settings(stateful_step_count=12, max_examples=settings().max_examples // 10)
    run_state_machine_as_test(WaitersHere, settings=few)


def test_a_called_waiter_that_calls_no_other_fails(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    two_waiters_leave_at_once(server)
    a_called_waiter_calls_no_other(monkeypatch)
    with pytest.raises(AssertionError, match="its waiter waits"):
        two_waiters_leave_at_once(server)


def two_waiters_leave_at_once(server: Server) -> None:
    """Let the one leave that listens, and the one that it calls."""
    for seed in range(8):  # which of them leaves first is up to the scheduler
        waiters = Waiters(server)
        waiters.begin(seed)
        listening = waiters.listening()
        waiters.leave({listening, 1 if listening == 0 else 0}, 0.01)
        waiters.teardown()


def test_a_limited_job_that_stands_behind_others_starts_after_them(server: Server) -> None:
    run_script(server, a_limited_job_stands_behind_others)


def run_script(server: Server, script: Callable[[Lanes], None]) -> None:
    lanes = Lanes(server)
    try:
        script(lanes)
        lanes.nothing_is_wrong()
    finally:
        lanes.teardown()
