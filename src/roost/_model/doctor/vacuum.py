"""Judge what vacuum has to do, and what keeps it from doing it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from roost._model.doctor.facts import (
    PreparedTransaction,
    Relation,
    SchemaObjects,
    Slot,
    Transaction,
    Transactions,
)
from roost._model.doctor.finding import Finding, FindingLevel, plural, quoted, size
from roost._model.durations import duration

MANY_DEAD = 50_000
"""Dead rows of a table from which they are worth a note, if they are more than the live ones."""
TOO_MANY_DEAD = 1_000_000
BIG_INDEX = 32 * 1024 * 1024
"""Bytes of an index from which its unused space is worth a note."""
ENTRY = 1_000
"""Bytes for each entry of an index above which most of its space is unused. Keys have up to 200
characters, entries mostly less than 100 bytes."""
LONG_TRANSACTION, HARMFUL_TRANSACTION = 60.0, 3_600.0
"""Seconds."""
KEPT_LOG = 1_000_000_000
"""Bytes of log that a slot without a client keeps."""
KEPT_TRANSACTIONS = 1_000_000

VACUUM = "roost.jobs gets two dead rows for each job, and grows until vacuum can remove them"


def judge_dead_rows(objects: SchemaObjects) -> Iterable[Finding]:
    """Compare the dead rows of each table with the live ones."""
    found = [*_dead_rows(objects.relations), *_disabled(objects.relations)]
    yield from found
    if not found:
        jobs = next((each for each in objects.relations if each.name == "jobs"), None)
        seen = "no table has many dead rows"
        if jobs is not None:
            seen += f"; roost.jobs has about {jobs.dead:,} beside {jobs.live:,} live ones"
        yield Finding(check="dead_rows", level=FindingLevel.OK, seen=seen)


def _dead_rows(relations: Sequence[Relation]) -> Iterable[Finding]:
    for table in relations:
        if table.kind != "r" or table.dead < MANY_DEAD or table.dead <= table.live:
            continue
        ago = table.vacuumed_seconds_ago
        last = "never vacuumed" if ago is None else f"last vacuumed {duration(ago)} ago"
        yield Finding(
            check="dead_rows",
            level=FindingLevel.TROUBLE if table.dead >= TOO_MANY_DEAD else FindingLevel.NOTE,
            subject=table.name,
            seen=f"roost.{table.name} has about {table.dead:,} dead rows beside {table.live:,} "
            f"live ones, {size(table.bytes)}, {last}",
            advice=f"look at what holds back vacuum (below); then: vacuum roost.{table.name};",
            data={
                "dead": table.dead,
                "live": table.live,
                "bytes": table.bytes,
                "vacuumed_seconds_ago": ago,
            },
        )


def _disabled(relations: Sequence[Relation]) -> Iterable[Finding]:
    for table in relations:
        if table.kind == "r" and table.autovacuum_off:
            yield Finding(
                check="dead_rows",
                level=FindingLevel.TROUBLE,
                subject=table.name,
                seen=f"autovacuum is turned off for roost.{table.name}",
                advice=f"alter table roost.{table.name} reset (autovacuum_enabled);",
                data={"dead": table.dead, "live": table.live},
            )


def judge_index_sizes(objects: SchemaObjects) -> Iterable[Finding]:
    """Find indexes that are much larger than what is in them."""
    found = False
    for index in objects.relations:
        if index.kind != "i" or index.bytes < BIG_INDEX:
            continue
        if index.bytes > ENTRY * max(index.rows, 1):
            found = True
            yield Finding(
                check="index_sizes",
                level=FindingLevel.NOTE,
                subject=index.name,
                seen=f"the index roost.{index.name} has {size(index.bytes)} for about "
                f"{plural(int(index.rows), 'entry').replace('entrys', 'entries')}",
                advice=f"in a quiet moment: reindex index concurrently roost.{index.name};",
                data={"bytes": index.bytes, "entries": int(index.rows)},
            )
    if not found:
        total = sum(each.bytes for each in objects.relations if each.kind == "i")
        yield Finding(
            check="index_sizes",
            level=FindingLevel.OK,
            seen=f"no index has much unused space; all together have {size(total)}",
            data={"bytes": total},
        )


def judge_transactions(transactions: Transactions) -> Iterable[Finding]:
    """Find transactions that keep dead rows from being removed."""
    for each in transactions.long:
        yield _transaction(each)
    if transactions.hidden:
        yield Finding(
            check="long_transactions",
            level=FindingLevel.NOTE,
            seen=f"{plural(transactions.hidden, 'session')} of other roles could not be looked at",
            advice="grant pg_read_all_stats to the role, or run the doctor as another one",
            data={"unseen": True, "sessions": transactions.hidden},
        )
    elif not transactions.long:
        yield Finding(
            check="long_transactions",
            level=FindingLevel.OK,
            seen=f"no transaction is open for more than {duration(LONG_TRANSACTION)}",
        )


def _transaction(each: Transaction) -> Finding:
    who = f"role {each.role}, application {each.application or '-'}, {each.state or '-'}"
    return Finding(
        check="long_transactions",
        level=FindingLevel.TROUBLE if each.seconds >= HARMFUL_TRANSACTION else FindingLevel.NOTE,
        subject=str(each.pid),
        seen=f"a transaction is open for {duration(each.seconds)} ({who}); vacuum waits for it",
        advice=f"let it end, or: select pg_terminate_backend({each.pid}); {VACUUM}",
        data={
            "pid": each.pid,
            "role": each.role,
            "application": each.application,
            "state": each.state,
            "seconds": each.seconds,
        },
    )


def judge_slots(slots: Sequence[Slot]) -> Iterable[Finding]:
    """Find replication slots that keep dead rows or log."""
    found = [slot for slot in slots if _is_held(slot)]
    for slot in found:
        kept = []
        if slot.kept_transactions is not None:
            kept.append(f"dead rows of the last {slot.kept_transactions:,} transactions")
        if slot.kept_bytes is not None:
            kept.append(f"{size(slot.kept_bytes)} of log")
        holds = slot.kept_transactions is not None or (slot.kept_bytes or 0) >= KEPT_LOG
        yield Finding(
            check="replication_slots",
            level=FindingLevel.TROUBLE if holds and not slot.active else FindingLevel.NOTE,
            subject=slot.name,
            seen=f"the replication slot {slot.name} "
            + ("is in use" if slot.active else "has no client")
            + f" and keeps {' and '.join(kept) or 'log'}",
            advice="look at why its standby is behind"
            if slot.active
            else f"start its client again, or: select pg_drop_replication_slot('{slot.name}');",
            data={
                "active": slot.active,
                "transactions": slot.kept_transactions,
                "bytes": slot.kept_bytes,
            },
        )
    if not found:
        yield Finding(
            check="replication_slots",
            level=FindingLevel.OK,
            seen=f"{plural(len(slots), 'replication slot')}; none holds back vacuum",
            data={"slots": len(slots)},
        )


def _is_held(slot: Slot) -> bool:
    return not slot.active or (slot.kept_transactions or 0) >= KEPT_TRANSACTIONS


def judge_prepared(prepared: Sequence[PreparedTransaction]) -> Iterable[Finding]:
    """Find transactions that were prepared and forgotten."""
    for each in prepared:
        harmful = each.seconds >= HARMFUL_TRANSACTION
        gid = quoted(each.gid)
        yield Finding(
            check="prepared_transactions",
            level=FindingLevel.TROUBLE if harmful else FindingLevel.NOTE,
            subject=each.gid,
            seen=f"a transaction of role {each.role} is prepared for {duration(each.seconds)}; "
            "vacuum waits for it, and its locks stay",
            advice=f"as that role, in this database: commit prepared {gid}; or, instead: rollback "
            f"prepared {gid};",
            data={"role": each.role, "seconds": each.seconds},
        )
    if not prepared:
        yield Finding(
            check="prepared_transactions",
            level=FindingLevel.OK,
            seen="no prepared transaction is left open",
        )
