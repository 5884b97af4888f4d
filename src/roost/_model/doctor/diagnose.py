"""Judge all facts: a pure function from what was read to findings."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from roost._model.doctor import objects, server, vacuum, work
from roost._model.doctor.facts import Facts, Unseen
from roost._model.doctor.finding import Finding, FindingLevel

RULES: tuple[tuple[str, tuple[str, ...], Callable[..., Iterable[Finding]]], ...] = (
    ("server", ("server",), server.judge_server),
    ("round_trip", ("connection",), server.judge_round_trip),
    ("pooler", ("connection",), server.judge_pooler),
    ("notifications", ("notify", "connection"), server.judge_notify),
    ("notify_queue", ("server",), server.judge_notify_queue),
    ("clock", ("connection",), server.judge_clock),
    ("settings", ("settings",), server.judge_settings),
    ("connections", ("limits",), server.judge_connections),
    ("schema", ("schema",), objects.judge_schema),
    ("tables", ("objects", "expected"), objects.judge_tables),
    ("indexes", ("objects", "expected"), objects.judge_indexes),
    ("functions", ("objects", "expected"), objects.judge_functions),
    ("rights", ("rights",), objects.judge_rights),
    ("workers", ("workers", "queues"), work.judge_workers),
    ("dead_workers", ("workers", "orphans"), work.judge_dead_workers),
    ("oldest_ready", ("queues", "workers"), work.judge_oldest),
    ("unserved_queues", ("queues", "workers"), work.judge_unserved),
    ("pauses", ("queues", "workers", "connection"), work.judge_pauses),
    ("unknown_tasks", ("unknown_tasks",), work.judge_unknown_tasks),
    ("cron", ("cron", "workers", "connection"), work.judge_cron),
    ("dead_rows", ("objects",), vacuum.judge_dead_rows),
    ("index_sizes", ("objects",), vacuum.judge_index_sizes),
    ("long_transactions", ("transactions",), vacuum.judge_transactions),
    ("replication_slots", ("slots",), vacuum.judge_slots),
    ("prepared_transactions", ("prepared",), vacuum.judge_prepared),
)
"""The check's name, the parts of `Facts` that it needs, and its function."""

CHECKS = frozenset(name for name, _, _ in RULES)
"""The names that `Finding.check` can have."""


def diagnose(facts: Facts) -> list[Finding]:
    """Return the findings of all checks, in the order of `RULES`."""
    found: list[Finding] = []
    for check, parts, judge in RULES:
        values = [getattr(facts, part) for part in parts]
        unseen = next((value for value in values if isinstance(value, Unseen)), None)
        if unseen is None:
            found.extend(judge(*values))
        elif not unseen.needless:
            found.append(
                Finding(
                    check=check,
                    level=FindingLevel.NOTE,
                    seen=f"not checked: {unseen.reason}",
                    data={"unseen": True},
                )
            )
    return found
