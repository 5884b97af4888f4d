"""Where a finding becomes trouble, for troubles that take hours to make."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from roost import FindingLevel
from roost._model.doctor.diagnose import CHECKS, RULES
from roost._model.doctor.facts import (
    ConnectionFacts,
    PreparedTransaction,
    Relation,
    SchemaObjects,
    Slot,
    Transaction,
    Transactions,
)
from roost._model.doctor.finding import size
from roost._model.doctor.server import is_pooled, judge_notify, judge_round_trip
from roost._model.doctor.vacuum import (
    judge_dead_rows,
    judge_prepared,
    judge_slots,
    judge_transactions,
)

NOTE, TROUBLE, OK = FindingLevel.NOTE, FindingLevel.TROUBLE, FindingLevel.OK


def connection(*, client_pid: int | None = 7, pids: tuple[int, ...] = (7,)) -> ConnectionFacts:
    return ConnectionFacts(
        client_pid=client_pid,
        server_pids=pids,
        round_trip=0.001,
        now=datetime(2026, 6, 1, tzinfo=UTC),
        clock_ahead=0.0,
        clock_error=0.0,
    )


def relation(name: str, *, live: int, dead: int) -> Relation:
    return Relation(
        name=name,
        kind="r",
        valid=True,
        bytes=8_192,
        rows=float(live),
        pages=1,
        live=live,
        dead=dead,
        vacuumed_seconds_ago=7_200.0,
        autovacuum_off=False,
    )


@pytest.mark.parametrize(
    ("client_pid", "pids", "pooled"),
    [(7, (7, 7), False), (7, (8, 8), True), (None, (8, 8), False), (None, (8, 9), True)],
)
def test_another_process_that_answers_is_a_pooler(
    client_pid: int | None, pids: tuple[int, ...], *, pooled: bool
) -> None:
    assert is_pooled(connection(client_pid=client_pid, pids=pids)) is pooled


def test_lost_notifications_are_trouble_where_no_pooler_explains_them() -> None:
    [direct] = judge_notify(None, connection())
    [behind] = judge_notify(None, connection(pids=(8,)))
    [slow] = judge_notify(1.0, connection())
    assert (direct.level, behind.level, slow.level) == (TROUBLE, NOTE, NOTE)


def test_a_far_database_is_noted() -> None:
    [near] = judge_round_trip(connection())
    [far] = judge_round_trip(attrs.evolve(connection(), round_trip=0.05))
    assert (near.level, far.level) == (OK, NOTE)


@pytest.mark.parametrize(
    ("live", "dead", "level"),
    [
        (0, 49_999, OK),
        (100_000, 90_000, OK),
        (10, 60_000, NOTE),
        (10, 1_000_000, TROUBLE),
    ],
)
def test_dead_rows_are_compared_with_the_live_ones(
    live: int, dead: int, level: FindingLevel
) -> None:
    objects = SchemaObjects(
        relations=[relation("jobs", live=live, dead=dead)],
        functions={},
    )
    [finding] = judge_dead_rows(objects)
    assert finding.level is level


def test_a_transaction_of_hours_is_trouble() -> None:
    def transaction(seconds: float) -> Transactions:
        return Transactions(
            long=[Transaction(pid=1, role="app", application="a", state="active", seconds=seconds)],
            hidden=0,
        )

    [short] = judge_transactions(transaction(120.0))
    [long] = judge_transactions(transaction(7_200.0))
    assert (short.level, long.level) == (NOTE, TROUBLE)
    [prepared] = judge_prepared([PreparedTransaction(gid="g", role="app", seconds=7_200.0)])
    assert prepared.level is TROUBLE


@pytest.mark.parametrize(
    ("active", "transactions", "kept", "level"),
    [
        (True, None, 1_000, OK),
        (True, 5, None, OK),
        (True, 2_000_000, 1_000, NOTE),
        (False, None, 1_000, NOTE),
        (False, None, 2_000_000_000, TROUBLE),
        (False, 5, 1_000, TROUBLE),
    ],
)
def test_a_slot_without_a_client_is_trouble_if_it_keeps_rows_or_much_log(
    *, active: bool, transactions: int | None, kept: int | None, level: FindingLevel
) -> None:
    slot = Slot(name="s", active=active, kept_transactions=transactions, kept_bytes=kept)
    [finding] = judge_slots([slot])
    assert finding.level is level


def test_sizes_are_for_people() -> None:
    assert [size(number) for number in (12, 64_000_000)] == ["12 bytes", "64 MB"]


def test_each_check_has_one_rule_and_one_row_in_the_documentation() -> None:
    assert len(CHECKS) == len(RULES)
    page = (Path(__file__).parents[2] / "docs/reference/doctor.md").read_text(encoding="utf-8")
    table = page[page.index("| check | note |") :]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) == [name for name, _, _ in RULES]
