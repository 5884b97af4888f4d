"""Compare schemas, indexes, settings and statements for claim and settle, on a real Postgres.

Every variant gets a schema of its own. A round fills its table, lets some clients claim and settle
until it is empty, and counts jobs per second and WAL bytes per job. Rounds of all variants
alternate, so that a noisy neighbor hits all of them; the table shows ratios of medians against the
first variant. Only ratios of one run may be compared. It drops and creates schemas `bench_*`.
"""

from __future__ import annotations

import argparse

from bench.schema.checks import check, check_cold, check_race
from bench.schema.measuring import Load, Variant, compare
from bench.schema.texts import (
    ALL,
    BY_CTID_ANY,
    BY_ID_JOIN,
    GUARD,
    NEXT_DUE,
    PICK_FLAT,
    PICK_LAZY,
    PICK_QUOTA,
    PICK_SIMPLE,
    SETTLE_LOCKED,
    SETTLE_WAKE,
    WAITING,
    claim,
)

BASE = claim(PICK_FLAT)
FUTURE = """
insert into roost.jobs (queue, task, args, scheduled_at)
select 'default', 't', '{}', now() + interval '1 day' + i * interval '1 s'
from generate_series(1, 100000) i;"""
BUSY = """
insert into roost.jobs (queue, task, args, state, worker_id, scheduled_at)
select 'default', 't', '{}', 'executing', 99, now() - interval '2 hours'
from generate_series(1, 2000);"""
CHILDREN = (
    "insert into roost.dependencies select 10000000 + i, i from generate_series(1, 100000) i;"
)
# No index changes at a claim, so that the update can be HOT; who is executing has no index.
HOT = (
    (f"where {WAITING};", "where completed_at is null and pending_parents = 0;"),
    (WAITING, f"{WAITING} and completed_at is null"),
    ("state in ('available', 'executing', 'retryable');", "completed_at is null;"),
    ("create index jobs_executing on roost.jobs (worker_id) where state = 'executing';", ""),
)
NULLS = tuple(
    (f"{column} not null default '{empty}'", column)
    for column, empty in (
        ("errors jsonb", "[]"),
        ("tags text[]", "{}"),
        ("depends_on bigint[]", "{}"),
        ("metadata jsonb", "{}"),
    )
)
FINISHED = """
create index jobs_finished on roost.jobs (greatest(completed_at, cancelled_at, discarded_at))
    where state in ('completed', 'discarded', 'cancelled');"""
LOOSE = "alter table roost.jobs set (fillfactor = 70);"
BIG, SMALL = Load(20000, 50, 4), Load(5000, 10, 1)

COMPARISONS: dict[str, tuple[list[Variant], list[Load]]] = {
    "claims": (
        [
            Variant("simple", claim(PICK_SIMPLE)),
            Variant("quota_join", claim(PICK_QUOTA, BY_ID_JOIN)),
            Variant("quota", claim(PICK_QUOTA)),
            Variant("quota_ctid", claim(PICK_QUOTA, BY_CTID_ANY)),
            Variant("lazy", claim(PICK_LAZY)),
            Variant("flat", BASE),
            Variant("flat_ctid", claim(PICK_FLAT, BY_CTID_ANY)),
        ],
        [BIG, SMALL, Load(20000, 128, 4)],
    ),
    "future": (
        [
            Variant("flat", BASE),
            Variant("flat_future", BASE, fill=FUTURE),
            Variant("simple_future", claim(PICK_SIMPLE), fill=FUTURE),
        ],
        [Load(4000, 50, 1, priority=5)],
    ),
    "parts": (
        [
            Variant("base", BASE),
            Variant("no_executing", BASE, ddl="drop index roost.jobs_executing;"),
            Variant("no_unique", BASE, ddl="drop index roost.jobs_unique;"),
            Variant("finished_index", BASE, ddl=FINISHED),
            Variant("guard", claim(PICK_FLAT, guard=GUARD.replace("@lock", ""))),
            Variant("guard_lock", claim(PICK_FLAT, guard=GUARD.replace("@lock", " for key share"))),
            Variant("all_columns", claim(PICK_FLAT, columns=ALL)),
            Variant("next_due", claim(PICK_FLAT, take=NEXT_DUE)),
        ],
        [BIG, SMALL],
    ),
    "hot": (
        [
            Variant("base", BASE),
            Variant("loose", BASE, ddl=LOOSE),
            Variant("hot_full", BASE, edit=HOT),
            Variant("hot_loose", BASE, edit=HOT, ddl=LOOSE),
            Variant("busy", BASE, fill=BUSY),
            Variant("hot_loose_busy", BASE, edit=HOT, fill=BUSY, ddl=LOOSE),
        ],
        [BIG, SMALL],
    ),
    "settle": (
        [
            Variant("plain", BASE),
            Variant("locked", BASE, SETTLE_LOCKED),
            Variant("wake_empty", BASE, SETTLE_WAKE),
            Variant("wake_100k", BASE, SETTLE_WAKE, fill=CHILDREN),
            Variant("result_json", BASE, result='{"sent": true, "message_id": "0c9a7f2e"}'),
        ],
        [BIG, SMALL],
    ),
    "columns": ([Variant("base", BASE), Variant("nullable", BASE, edit=NULLS)], [BIG, SMALL]),
}


def main() -> None:
    """Run the comparisons that the command line names, or all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help=f"of {', '.join(COMPARISONS)}, check")
    parser.add_argument("--dsn", required=True, help="a scratch database on this machine")
    parser.add_argument("--rounds", type=int, default=5, help="alternating rounds of each variant")
    args = parser.parse_args()
    for name in args.names or ["check", *COMPARISONS]:
        if name == "check":
            for variant in COMPARISONS["claims"][0][1:]:
                check(args.dsn, variant)
            for variant in COMPARISONS["claims"][0][-2:]:
                check_race(args.dsn, variant)
            check_cold(args.dsn, Variant("flat", BASE))
            continue
        variants, loads = COMPARISONS[name]
        for load in loads:
            compare(args.dsn, name, variants, load, args.rounds)


if __name__ == "__main__":
    main()
