"""The benches run, with few jobs, so that the published figures can be reproduced."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import psycopg
import pytest
from bench import compare, lab, producers, trials
from bench.peers import contestants
from bench.peers.contestants import BASE, CONTESTANTS, GRAPHILE, why_missing


def test_a_fresh_database_is_dropped(server_dsn: str) -> None:
    def names(dsn: str) -> list[str]:
        with psycopg.connect(dsn, autocommit=True) as conn:
            return [row[0] for row in conn.execute("select datname from pg_database")]

    with lab.fresh_database(server_dsn) as dsn:
        with psycopg.connect(dsn) as conn:
            own = conn.info.dbname
        assert own in names(server_dsn)
    assert own not in names(server_dsn)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    hundred = [float(value) for value in range(100, 0, -1)]
    assert [lab.percentile(hundred, percent) for percent in (1, 50, 99, 100)] == [1, 50, 99, 100]
    assert lab.percentile([1.0, 2.0, 3.0], 50) == 2.0
    assert lab.percentile([7.0], 99) == 7.0


def test_results_name_the_machine_and_hide_the_server(
    server_dsn: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lab, "RESULTS", tmp_path)
    monkeypatch.setattr(sys, "argv", [str(lab.ROOT / "bench/x.py"), "--dsn", server_dsn, "--quick"])
    table = lab.Table(title="Drain", columns=["who", "jobs/s"], rows=[["roost", "20,000"]])
    report = lab.write_results(
        "x", machine=lab.machine(server_dsn), tables=[table], raw=[{"who": "roost"}]
    )
    text = report.read_text()
    assert "| roost | 20,000 |" in text
    assert "python bench/x.py --dsn … --quick" in text
    assert "fsync=" in text
    assert server_dsn not in text
    stored = json.loads(report.with_suffix(".json").read_text())
    assert stored["raw"] == [{"who": "roost"}]
    assert stored["machine"]["postgres"] in text


def test_a_drain_counts_every_job(empty_dsn: str) -> None:
    figures = trials.drain(BASE, empty_dsn, jobs=300, concurrency=8)
    assert figures["jobs/s"] > 0
    with psycopg.connect(empty_dsn) as conn:
        states = conn.execute("select state, count(*) from roost.jobs group by state").fetchall()
    assert states == [("completed", 300)]


def test_graphile_worker_takes_part(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if reason := why_missing(GRAPHILE):
        pytest.skip(reason)
    try:
        contestants.environment(GRAPHILE)  # installs it
    except subprocess.CalledProcessError:
        pytest.skip("npm can't install graphile-worker here")
    monkeypatch.setattr(trials, "WARM_UP", 1)
    [who] = [who for who in CONTESTANTS if who.peer is GRAPHILE]
    assert trials.drain(who, empty_dsn, jobs=1_200, concurrency=32)["jobs/s"] > 0
    assert trials.bulk(who, empty_dsn, rows=100)["rows/s"] > 0
    assert trials.enqueue(who, empty_dsn, jobs=3)["p50 ms"] > 0
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("delete from graphile_worker._private_jobs")
    assert trials.pickup(who, empty_dsn, jobs=2)["p50 ms"] > 0


def test_graphile_worker_is_skipped_without_node(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    assert why_missing(GRAPHILE) == "there is no node on the PATH"
    names = [
        case.name for scenario in compare.scenarios(compare.QUICK, []) for case in scenario.cases
    ]
    assert BASE.name in names
    assert "graphile-worker" not in names


def test_pickup_is_measured_under_load(empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trials, "SETTLE", 0.2)
    monkeypatch.setattr(trials, "WARM_UP", 1)
    figures = trials.pickup(BASE, empty_dsn, jobs=3, concurrency=4, naps=2, rate=100)
    assert 0 < figures["p50 ms"] <= figures["p99 ms"]


def test_producers_can_do_without_notifications(
    empty_dsn: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trials, "SETTLE", 0.2)
    figures = producers.produce(empty_dsn, seconds=0.2, worker="none", silent=True)
    assert figures["jobs/s"] > 0


def test_a_ratio_is_the_median_of_the_rounds_and_a_failure_is_printed() -> None:
    def trial(_: str) -> trials.Figures:
        raise NotImplementedError

    cases = [compare.Case(name, "a", trial) for name in "abc"]
    scenario = compare.Scenario(key="drain", title="Drain", cases=cases)
    done: compare.Trials = {
        "a": [{"jobs/s": 100.0}, {"jobs/s": 200.0}, {"jobs/s": 300.0}],
        "b": [{"jobs/s": 50.0}, {"jobs/s": 180.0}, None],
        "c": [None, None, None],
    }
    assert compare.table(scenario, done).rows == [
        ["a", "200", "100 to 300", "x 1.00"],
        ["b", "115", "50.00 to 180", "x 0.70"],
        ["c", "failed", "", ""],
    ]
