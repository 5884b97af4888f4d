"""The demo loses no job on either event loop, and fails when the database says otherwise."""

from __future__ import annotations

import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import pytest
from tests.support.job_table import JobTable

from roost.cli.demo.check import find_faults
from roost.cli.demo.scenario import Outcome, Row
from roost.embedded import remove

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])
CRASH = {"error": "WorkerCrash: worker 1"}


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[Path]:
    """Return where the embedded Postgres is, which is removed after the test."""
    folder = tmp_path / ".roost" / "pg"
    yield folder
    remove(folder)


@BOTH
def test_it_rescues_the_jobs_of_a_killed_worker_on_an_embedded_postgres(
    backend: str, data_dir: Path, roost_command: StartsRoost
) -> None:
    demo = roost_command("demo", "--backend", backend)
    assert demo.ends() == 0, demo.output
    assert "\x1b" not in demo.output
    running = re.search(r"Killed worker 1 \(SIGKILL\)\. It was running (\d) jobs", demo.output)
    assert running
    completed = rf"^\d+ jobs completed, {running[1]} of them in a second attempt"
    assert re.search(completed, demo.output, re.MULTILINE)
    assert "No job was lost, and none finished twice." in demo.output
    assert data_dir.is_dir()


@BOTH
def test_it_removes_what_it_made_in_a_database_that_is_named(
    backend: str, dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    mine = table.add("count", queue="mine")
    demo = roost_command("demo", "--backend", backend, "--dsn", dsn)
    assert demo.ends() == 0, demo.output
    assert table.rows("select id from roost.jobs") == [(mine,)]
    assert table.rows("select from pg_tables where tablename like 'roost_demo_%'") == []


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        ("new.result = '1000000'", "has the result 1000000; a plain loop has"),
        ("new.attempt = new.attempt + 1", "is completed at attempt 2 with 0 errors"),
    ],
)
def test_it_fails_when_the_database_keeps_something_else(
    lie: str, fault: str, dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    table.script(
        f"""
        create function lie() returns trigger language plpgsql as $$ begin
            if new.state = 'completed' and new.args->>'path' like '%exceptions.py' then
                {lie};
            end if;
            return new;
        end $$;
        create trigger lie before update on roost.jobs for each row execute function lie();
        """
    )
    demo = roost_command("demo", "--dsn", dsn)
    assert demo.ends() == 1
    assert fault in demo.output
    assert "roost: the demo failed" in demo.output
    assert "No job was lost" not in demo.output


def test_a_signal_ends_it_and_nothing_is_left(
    dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    # A job that is not due keeps the demo from its end.
    table.script(
        """
        create function never() returns trigger language plpgsql as $$ begin
            new.scheduled_at = now() + interval '1 hour';
            return new;
        end $$;
        create trigger never before insert on roost.jobs for each row
            when (new.args->>'path' like '%exceptions.py') execute function never();
        """
    )
    demo = roost_command("demo", "--dsn", dsn)
    demo.wait_for("Killed worker 1")
    demo.signal(signal.SIGINT)
    assert demo.ends() == 130
    assert table.states() == {}
    assert table.rows("select from pg_tables where tablename like 'roost_demo_%'") == []


# The check itself, on an outcome that is right but for one thing.


@pytest.fixture
def outcome(tmp_path: Path) -> Outcome:
    """Return the outcome of a run without a fault: two files, one counted again after a crash."""
    rows = []
    for number in (1, 2):
        path = tmp_path / str(number)
        path.write_text("a line\n" * number)
        rows.append(Row(number, "count", {"path": str(path)}, "completed", 1, [], number))
    rows[1] = attrs.evolve(rows[1], attempt=2, errors=[CRASH])
    rows.append(Row(3, "total", {}, "completed", 1, [], 3))
    return Outcome(enqueued=[1, 2], total=3, rolled_back=9, rows=rows, stored=[(1, 1), (2, 2)])


def test_an_outcome_without_a_fault_passes(outcome: Outcome) -> None:
    assert find_faults(outcome) == []


@pytest.mark.parametrize("place", [0, 1, 2])
def test_every_wrong_row_is_a_fault(place: int, outcome: Outcome) -> None:
    row = outcome.rows[place]
    before, after = outcome.rows[:place], outcome.rows[place + 1 :]
    for changed in (
        attrs.evolve(row, state="discarded"),
        attrs.evolve(row, attempt=row.attempt + 1),
        attrs.evolve(row, result=row.result + 1),
        attrs.evolve(row, id=9),
    ):
        rows = [*before, changed, *after]
        assert find_faults(attrs.evolve(outcome, rows=rows)), changed
    assert find_faults(attrs.evolve(outcome, rows=[*before, *after])), "a lost job"


@pytest.mark.parametrize(
    "stored",
    [
        pytest.param([(1, 1)], id="lost"),
        pytest.param([(1, 1), (2, 2), (2, 2)], id="finished twice"),
        pytest.param([(1, 1), (2, 3)], id="wrong"),
        pytest.param([(1, 1), (2, 2), (9, 1)], id="rolled back"),
    ],
)
def test_every_wrong_store_is_a_fault(stored: list[tuple[int, int]], outcome: Outcome) -> None:
    assert find_faults(attrs.evolve(outcome, stored=stored))


def test_a_rolled_back_job_that_exists_is_named(outcome: Outcome) -> None:
    rows = [*outcome.rows, attrs.evolve(outcome.rows[0], id=9)]
    faults = find_faults(attrs.evolve(outcome, rows=rows))
    assert "job 9 exists and should not: its transaction was rolled back" in faults


def test_a_run_without_a_rescue_is_a_fault(outcome: Outcome) -> None:
    rows = [attrs.evolve(row, errors=[], attempt=1) for row in outcome.rows]
    assert find_faults(attrs.evolve(outcome, rows=rows)) == [
        "no job of the killed worker was rescued"
    ]
