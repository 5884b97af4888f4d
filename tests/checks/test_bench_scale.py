"""The measurements of a table's size, of a job's cost and of a worker's profile still work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from types import ModuleType

import psycopg
import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture
def bench(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Make the folder of the benches importable, as its scripts do."""
    monkeypatch.syspath_prepend(ROOT)
    import bench.situations

    return bench.situations


def test_situations_are_drained_and_measured(server_dsn: str) -> None:
    chosen = ["--only", "rated", "--jobs", "100", "--rounds", "1", "--quick", "--dry"]
    done = subprocess.run(
        [sys.executable, "bench/scale.py", "--dsn", server_dsn, *chosen],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "| 1,000 jobs of a task at rate_per_minute" in done.stdout


def test_every_situation_fits_the_schema(bench: ModuleType, server_dsn: str) -> None:
    for line in bench.situations(quick=True):
        with (
            bench.prepared(server_dsn, line, jobs=1) as name,
            psycopg.connect(bench.dsn_for(server_dsn, name), autocommit=True) as conn,
        ):
            start = bench.Start.of(conn)
            assert start.waiting == line.share
            assert start.rows >= start.waiting + line.big


def test_a_row_that_no_drain_may_touch_is_missed(bench: ModuleType, server_dsn: str) -> None:
    line = next(s for s in bench.situations(quick=True) if s.name == "blocked")
    with (
        bench.prepared(server_dsn, line, jobs=1) as name,
        psycopg.connect(bench.dsn_for(server_dsn, name), autocommit=True) as conn,
    ):
        start = bench.Start.of(conn)
        bench.check(conn, start, drained=0)
        conn.execute("update roost.jobs set priority = 9 where pending_parents > 0 and id % 99 = 1")
        with pytest.raises(RuntimeError, match="touched"):
            bench.check(conn, start, drained=0)


def test_a_job_that_is_not_complete_is_missed(bench: ModuleType, server_dsn: str) -> None:
    with (
        bench.prepared(server_dsn, bench.EMPTY, jobs=2) as name,
        psycopg.connect(bench.dsn_for(server_dsn, name), autocommit=True) as conn,
        pytest.raises(RuntimeError, match="left"),
    ):
        bench.check(conn, bench.Start.of(conn), drained=2)


def test_a_drain_that_is_over_at_once_is_read(
    bench: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import draining

    both = 'print(\'ready\', \'{"jobs": 1, "first": 0, "ended": 1, "cpu": 1}\', sep=\'\\n\')'
    monkeypatch.setattr(draining, "command", lambda _: [sys.executable, "-c", both])
    assert draining.drain(draining.Drain(dsn="", jobs=1)).jobs == 1


def test_the_cost_of_a_drain_is_read(bench: ModuleType, server_dsn: str) -> None:
    from bench.cost import draining, metered

    with bench.prepared(server_dsn, bench.EMPTY, jobs=50) as template:
        trial = metered(server_dsn, template, draining(50, 4))
    assert trial.jobs == 50
    assert sum(trial.statements.values()) > 2
    assert trial.server.wal > 50
    assert trial.server.commits > 2


def test_jobs_are_inserted_while_a_worker_drains(
    bench: ModuleType, server_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from bench import busy

    monkeypatch.setattr(busy, "PRODUCERS", 1)
    with (
        bench.prepared(server_dsn, bench.EMPTY, jobs=20) as template,
        bench.clone(server_dsn, template) as dsn,
    ):
        seen = busy.with_worker(dsn, 0.2, "default", idle=False)
    assert seen.inserted > 0
    assert seen.drained > 0


def test_a_picture_names_no_folder_of_the_machine(bench: ModuleType) -> None:
    from bench.flame import in_the_loop
    from bench.pictures import flame

    del bench
    home = "/" + "home/somebody"
    main = f"main ({home}/bench/draining.py:3)"
    lane = f"Lane.run ({home}/src/roost/_worker/lane.py:12)"
    dump = f"dump ({home}/lib/python3.13/site-packages/pydantic/main.py:1)"
    raw = "\n".join(
        [
            f"{main};Handle._run (asyncio/events.py:9);{lane} 90",
            f"{main};Handle._run ({home}/lib/python3.13/asyncio/events.py:9);{dump} 10",
            f"{main};load ({home}/imports.py:1) 500",
        ]
    )
    stacks = in_the_loop(raw)
    assert stacks == {
        ("Handle._run (asyncio/events.py)", "Lane.run (roost/_worker/lane.py)"): 90,
        ("Handle._run (asyncio/events.py)", "dump (pydantic/main.py)"): 10,
    }
    picture = flame(stacks, title="a < b")
    assert "Lane.run (roost/_worker/lane.py): 90.0%" in picture
    assert "a &lt; b" in picture
    assert home not in picture
