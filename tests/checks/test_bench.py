"""The benches run, with a handful of jobs: figures that nobody can make again prove nothing."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import psycopg
import pytest
from bench import lab


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
