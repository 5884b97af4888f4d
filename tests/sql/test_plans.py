"""On a large table the hot statements use their indexes and read few blocks.

The table is built once: finished and future jobs, in front of a few that are due.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol

import pytest
from tests.support.job_table import JobTable

from roost import ExplanationReason, Job, JobInsert
from roost._model.encoding import encode_jobs
from roost._model.job_filter import WAITING, check_filter
from roost._model.states import TERMINAL, JobState
from roost._model.validate import MAX_ID
from roost._ops.claim import as_datetime
from roost._ops.explain import explain_job
from roost._ops.list_jobs import bound_search, list_jobs
from roost._ops.query import Op
from roost._ops.read import list_queues
from roost._sql import Statement, statements

FINISHED, FUTURE, DUE, EXECUTING, DISCARDED = 200_000, 50_000, 2_000, 300, 12_000

LARGE = f"""
    insert into roost.workers (name, queues, concurrency, expires_at)
    values ('tester', array['default'], 10, now() + interval '1 day');

    insert into roost.jobs (task, state, completed_at, attempt, worker_id, lease_no)
    select 'work', 'completed', now() - interval '1 day', 1, 1, 1
    from generate_series(1, {FINISHED});

    insert into roost.jobs (task, state, priority, scheduled_at)
    select 'work', case n % 9 when 0 then 'retryable' else 'available' end, n % 3 - 1,
        now() + interval '1 hour' + n * interval '1 s'
    from generate_series(1, {FUTURE}) as n;

    insert into roost.jobs (task, priority)
    select 'work', 1
    from generate_series(1, {DUE});

    insert into roost.jobs (task, state, attempt, worker_id, lease_no)
    select 'work', 'executing', 1, 1, 1
    from generate_series(1, {EXECUTING});

    insert into roost.jobs (task, queue, state, discarded_at)
    select 'work', 'failing', 'discarded', now()
    from generate_series(1, {DISCARDED});
"""


class Databases(Protocol):
    """What the project's conftest yields."""

    def fresh(self, template: str) -> Any: ...

    def dsn_for(self, database: str) -> str: ...


@pytest.fixture(scope="module")
def large(databases: Databases, template: str) -> Iterator[JobTable]:
    with (
        databases.fresh(template) as name,
        JobTable(databases.dsn_for(name)) as table,
    ):
        table.script(LARGE)
        table.rows("vacuum analyze roost.jobs")
        table.rows("analyze roost.workers")
        yield table


class Plan:
    """What EXPLAIN says, in a transaction that is rolled back."""

    def __init__(
        self, table: JobTable, statement: Statement, *params: object, run: bool = True
    ) -> None:
        options = "analyze, buffers, format json" if run else "format json"
        with table.connection.raw.transaction(force_rollback=True):
            # As a worker's connection after a few uses: one plan for all parameters.
            table.rows("set local plan_cache_mode = force_generic_plan")
            explained = table.value(f"explain ({options}) {statement.text}", *params)
        [self.root] = json.loads(explained) if isinstance(explained, str) else explained
        self.nodes = list(_nodes(self.root["Plan"]))

    @property
    def scanned(self) -> set[str]:
        """The tables that are read from end to end."""
        return {node["Relation Name"] for node in self.nodes if node["Node Type"] == "Seq Scan"}

    @property
    def indexes(self) -> set[str]:
        return {node["Index Name"] for node in self.nodes if "Index Name" in node}

    @property
    def blocks(self) -> int:
        """The number of blocks that it read, cached or not."""
        top = self.root["Plan"]
        hit, read = top["Shared Hit Blocks"], top["Shared Read Blocks"]
        assert isinstance(hit, int)
        assert isinstance(read, int)
        return hit + read


def warm_plan(table: JobTable, statement: Statement, *params: object) -> Plan:
    """Return the plan with the fewest blocks of three runs.

    The session reads the catalog at the first run, and again if other sessions change much of it.
    """
    runs = [Plan(table, statement, *params) for _ in range(3)]
    return min(runs, key=lambda run: run.blocks)


def _nodes(node: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield node
    for child in node.get("Plans", []):
        yield from _nodes(child)


def statement(name: str) -> Statement:
    stage, _, rest = name.partition(".")
    return statements(stage)[rest]


def claim(
    table: JobTable,
    *,
    limit: int = 10,
    queue: str = "default",
    after: tuple[object, ...] = ([], [], [], []),
) -> Plan:
    known = ["work", "other"]
    return Plan(table, statement("claim.claim_jobs"), 1, [queue], known, limit, *after, 3, 1, False)


def executing(table: JobTable, count: int) -> list[int]:
    rows = table.rows(
        "select id from roost.jobs where state = 'executing' order by id limit $1::int", count
    )
    return [job_id for (job_id,) in rows]


def verdicts(ids: list[int]) -> str:
    return json.dumps(
        [
            {
                "id": job_id,
                "worker_id": 1,
                "lease_no": 1,
                "state": "retryable",
                "attempt": 0,
                "delay": 5.0,
                "error": {"error": "ValueError", "trace": ""},
            }
            for job_id in ids
        ]
    )


def test_the_table_has_the_size_that_the_other_tests_assume(large: JobTable) -> None:
    assert large.states()["completed"] == FINISHED
    assert large.value("select relpages from pg_class where oid = 'roost.jobs'::regclass") > 3_000


def test_a_claim_walks_its_index_and_finds_its_jobs(large: JobTable) -> None:
    plan = claim(large)
    assert "jobs" not in plan.scanned
    assert "jobs_claim" in plan.indexes
    locked = [node for node in plan.nodes if node["Node Type"] == "LockRows"]
    assert sum(node["Actual Rows"] * node["Actual Loops"] for node in locked) >= 10


def test_a_claim_of_ten_reads_few_blocks_despite_many_future_jobs(large: JobTable) -> None:
    # Ten rows, five indexes, and the heads: 50,000 future jobs are not among it.
    assert claim(large).blocks < 600


def test_a_claim_that_finds_nothing_reads_few_blocks(large: JobTable) -> None:
    assert claim(large, queue="empty").blocks < 30


def test_a_larger_claim_costs_in_proportion(large: JobTable) -> None:
    ten, hundred = claim(large, limit=10).blocks, claim(large, limit=100).blocks
    assert hundred < 12 * ten


def test_a_claim_behind_another_skips_its_dead_index_entries(
    databases: Databases, template: str
) -> None:
    with databases.fresh(template) as name, JobTable(databases.dsn_for(name)) as table:
        worker = table.add_worker()
        table.rows("insert into roost.jobs (task) select 'work' from generate_series(1, 20000)")
        table.rows("analyze roost.jobs")
        with JobTable(databases.dsn_for(name)) as reader:
            reader.script("begin isolation level repeatable read")
            reader.rows("select count(*) from roost.jobs")  # keeps every dead entry in place
            for _ in range(10):
                last = table.claim(worker, limit=1_000).jobs[-1]
            from_the_head = claim(table)
            at = as_datetime(last.scheduled_at)
            after = ([last.queue], [last.priority], [at], [last.lease.job_id])
            behind = claim(table, after=after)
    assert behind.blocks < 200
    assert from_the_head.blocks > 2 * behind.blocks


@pytest.mark.parametrize("queues", [1, 10, 20])
def test_a_claim_walks_no_more_of_the_heads_than_it_takes(
    databases: Databases, template: str, queues: int
) -> None:
    with databases.fresh(template) as name, JobTable(databases.dsn_for(name)) as table:
        table.add_worker()
        table.rows(
            "insert into roost.jobs (queue, task, priority) "
            "select 'q' || n % $1::int, 'work', n / $1::int % 3 "
            "from generate_series(0, 20000) as n",
            queues,
        )
        table.rows("vacuum analyze roost.jobs")
        names = [f"q{number}" for number in range(queues)]
        parameters: tuple[object, ...] = (1, names, ["work"], 50, [], [], [], [], 3, 1, False)
        plan = Plan(table, statement("claim.claim_jobs"), *parameters)
    claims = [node for node in plan.nodes if node.get("Index Name") == "jobs_claim"]
    # One entry of each of a queue's three priorities, then the jobs that are claimed.
    walked = sum(node["Actual Rows"] * node["Actual Loops"] for node in claims)
    assert walked <= 3 * queues + 50
    assert not [node for node in plan.nodes if "Bitmap" in node["Node Type"]]


@pytest.mark.parametrize("known", ["a table that was analysed while nothing ran", "this table"])
@pytest.mark.parametrize("name", ["complete", "delete_completed"])
def test_each_verdict_is_one_probe_however_many_jobs_execute(
    databases: Databases, template: str, known: str, name: str
) -> None:
    with databases.fresh(template) as empty, JobTable(databases.dsn_for(empty)) as table:
        worker = table.add_worker()
        table.rows("insert into roost.jobs (task) select 'work' from generate_series(1, 4000)")
        table.rows("analyze roost.jobs")
        leases = [job.lease for _ in range(2) for job in table.claim(worker, limit=1_000).jobs]
        if known == "this table":
            table.rows("analyze roost.jobs")
        ids = [lease.job_id for lease in leases[:500]]
        results = [None] if name == "complete" else []
        parameters = (ids, [worker] * 500, [1] * 500, *results, False)
        plan = Plan(table, statement(f"settle.{name}"), *parameters)
    assert "jobs" not in plan.scanned
    for node in plan.nodes:
        walked = node["Actual Rows"] + node.get("Rows Removed by Filter", 0)
        walked += node.get("Rows Removed by Join Filter", 0)
        assert walked * node["Actual Loops"] <= 1_000, node["Node Type"]


@pytest.mark.parametrize("with_children", [False, True])
def test_completions_probe_their_rows(large: JobTable, with_children: bool) -> None:
    ids = executing(large, 10)
    plan = Plan(
        large,
        statement("settle.complete"),
        ids,
        [1] * 10,
        [1] * 10,
        None,
        with_children,
    )
    assert "jobs" not in plan.scanned
    assert plan.blocks < 400


@pytest.mark.parametrize("with_children", [False, True])
def test_deletions_of_completed_jobs_probe_their_rows(large: JobTable, with_children: bool) -> None:
    ids = executing(large, 10)
    parameters = (ids, [1] * 10, [1] * 10, with_children)
    plan = Plan(large, statement("settle.delete_completed"), *parameters)
    assert "jobs" not in plan.scanned
    assert plan.blocks < 300


@pytest.mark.parametrize("with_children", [False, True])
def test_other_verdicts_probe_their_rows(large: JobTable, with_children: bool) -> None:
    records = verdicts(executing(large, 10))
    plan = Plan(large, statement("settle.finish_unsuccessful"), records, 20, with_children)
    assert "jobs" not in plan.scanned
    assert plan.blocks < 800


def test_an_insert_reads_few_blocks(large: JobTable) -> None:
    records = encode_jobs([JobInsert("work", unique_key=f"key {n}") for n in range(10)])
    plan = Plan(large, statement("enqueue.insert_jobs"), records)
    assert "jobs" not in plan.scanned
    assert plan.blocks < 400


def test_an_insert_of_one_job_reads_fewer_blocks(large: JobTable) -> None:
    record = encode_jobs([JobInsert("work", unique_key="key")])
    plan = Plan(large, statement("enqueue.insert_job"), record)
    assert "jobs" not in plan.scanned
    assert plan.blocks < 100


PROBES: list[tuple[str, tuple[object, ...], int]] = [
    ("read.get_job", (150_000,), 20),
    ("enqueue.find_active_by_unique_key", ("free",), 20),
    ("rescue.rescue_jobs", (500, 20, [], "{}"), 5_000),
    ("workers.renew_worker", (1, 100.0, 0, 0, 0.0, False), 50),
    ("rescue.expire_workers", (), 50),
    ("workers.release_unheld", (1, [1], [1]), 8_000),
    ("settle.still_held", ([5], [1], [1]), 50),
    ("metadata.update_metadata", ([5], [1], [1], '{"5:1:1": {"progress": 1}}'), 50),
    ("unknown_tasks.unknown_tasks", (1, ["default", "failing"]), 8_000),
]
"""A statement, its parameters, and the most blocks that it may read."""


@pytest.mark.parametrize(("name", "params", "most"), PROBES, ids=[name for name, _, _ in PROBES])
def test_the_other_hot_statements_are_probes(
    large: JobTable, name: str, params: tuple[object, ...], most: int
) -> None:
    plan = warm_plan(large, statement(name), *params)
    assert "jobs" not in plan.scanned
    assert plan.blocks < most


def test_queues_are_counted_up_to_a_bound(large: JobTable) -> None:
    counted = {queue.name: queue for queue in large.run(list_queues())}
    assert set(counted) == {"default", "failing"}
    default, failing = counted["default"], counted["failing"]
    assert (default.available, default.executing, default.discarded) == (DUE, EXECUTING, 0)
    # Of 50,000 future jobs 10,000 were counted; those of the first priority hold all
    # that are retried.
    assert 6_000 < default.scheduled < 10_000
    assert default.retryable == FUTURE // 9
    assert default.capped
    assert default.oldest_due_seconds is not None
    assert default.oldest_due_seconds > 0
    assert (failing.discarded, failing.available, failing.oldest_due_seconds) == (10_000, 0, None)
    assert failing.capped


def test_the_list_of_queues_scans_no_table_of_jobs(large: JobTable) -> None:
    # A function's plan is not shown, so its body is explained, under the function's settings.
    body, settings = large.rows(
        "select prosrc, proconfig from pg_proc where oid = 'roost.list_queues'::regproc"
    )[0]
    with large.connection.raw.transaction(force_rollback=True):
        for setting in settings:
            large.rows("select set_config($1::text, $2::text, true)", *setting.split("="))
        plan = Plan(large, Statement("read.list_queues", body.strip().rstrip(";")))
    assert "jobs" not in plan.scanned
    assert "JIT" not in plan.root
    # 25,000 rows were counted once each, most of them in an index alone.
    assert plan.blocks < 4_000
    counts = [
        node
        for node in plan.nodes
        if node.get("Index Name") == "jobs_counted" and "state = '" in node.get("Index Cond", "")
    ]
    assert [node["Node Type"] for node in counts] == 3 * ["Index Only Scan"]


def test_the_list_of_queues_counts_no_more_when_ten_times_as_many_wait(large: JobTable) -> None:
    explained = Plan(large, statement("read.list_queues"))
    with large.connection.raw.transaction(force_rollback=True):
        large.rows(
            "insert into roost.jobs (task, priority, scheduled_at, state) "
            "select 'work', n % 3 - 1, now() + interval '1 day', 'retryable' "
            "from generate_series(1, $1::int) as n",
            FUTURE,
        )
        again = Plan(large, statement("read.list_queues"))
    assert again.blocks < explained.blocks * 1.5 + 10_000


@pytest.mark.parametrize("name", ["archive_jobs", "delete_jobs"])
def test_jobs_of_one_state_are_found_behind_older_ones_that_are_kept(
    large: JobTable, name: str
) -> None:
    batch = 100
    explained = Plan(large, statement(f"archive.{name}"), "discarded", 0.0, batch, None)
    assert explained.scanned == set()
    assert "jobs_finished" in explained.indexes
    walked = [node for node in explained.nodes if node.get("Index Name") == "jobs_finished"]
    assert [node["Actual Rows"] for node in walked] == [batch]
    assert explained.blocks < 60 * batch


def test_archived_jobs_of_one_state_are_found_behind_older_ones_that_are_kept(
    large: JobTable,
) -> None:
    with large.connection.raw.transaction(force_rollback=True):
        assert large.archive(limit=50_000) == 50_000 + DISCARDED
        large.rows("analyze roost.jobs_archive")
        batch = 100
        explained = Plan(
            large, statement("archive.delete_archived_jobs"), "discarded", 0.0, batch, None
        )
    assert explained.scanned == set()
    walked = [node for node in explained.nodes if node.get("Index Name") == "jobs_archive_finished"]
    assert [node["Actual Rows"] for node in walked] == [batch]


CHANGES = '{"queue": "bulk", "priority": 3}'


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("run_jobs_now", ()),
        ("reschedule_jobs", (None, 5.0)),
        ("update_jobs", (CHANGES, ["tags"])),
        ("lock_to_delete", ()),
        ("delete_links", ()),
        ("delete_jobs", ()),
        ("delete_archived_jobs", ()),
    ],
)
def test_a_change_of_one_job_finds_it_by_its_id(
    large: JobTable, name: str, params: tuple[object, ...]
) -> None:
    [(job_id,)] = large.rows(
        "select id from roost.jobs where scheduled_at > now() order by id desc limit 1"
    )
    explained = Plan(large, statement(f"steer.{name}"), [job_id], *params)
    assert explained.scanned.isdisjoint({"jobs", "jobs_archive"})
    assert explained.blocks < 150


def search(
    table: JobTable, *, after: int = 0, limit: int = 10_000, **given: Any
) -> tuple[Plan, int]:
    """Return the plan of a search for the jobs of a filter, and how many it finds."""
    where = check_filter(given)
    ended = where.includes(TERMINAL)
    kinds = (where.includes(WAITING), where.includes({JobState.EXECUTING}), ended, ended)
    params = (*where.params, after, limit, *kinds)
    rows = table.rows(statement("steer.find_jobs").text, *params)
    return Plan(table, statement("steer.find_jobs"), *params), len(rows)


@pytest.mark.parametrize(
    ("given", "found", "most"),
    [
        ({"ids": list(range(1, 400_000, 1_000))}, 265, 8_000),
        ({"states": ["discarded"]}, 10_000, 15_000),
        ({"states": ["discarded"], "queues": ["failing"]}, 10_000, 15_000),
        ({"states": ["executing"]}, EXECUTING, 1_000),
        ({"states": ["executing"], "worker_id": 1}, EXECUTING, 1_000),
        ({"states": ["available"], "queues": ["none"]}, 0, 50),
        ({"states": ["retryable"]}, FUTURE // 9, 12_000),
        ({"states": ["available", "retryable"], "queues": ["default"]}, 10_000, 60_000),
        ({"states": ["available"], "unique_key": "k"}, 0, 50),
        ({"finished_after": timedelta(hours=-12)}, 10_000, 15_000),
    ],
    ids=str,
)
def test_a_search_reads_the_jobs_that_may_fit(
    large: JobTable, given: dict[str, Any], found: int, most: int
) -> None:
    now = datetime.now(UTC)
    given = {
        name: now + value if isinstance(value, timedelta) else value
        for name, value in given.items()
    }
    explained, count = search(large, **given)
    assert count == found
    assert explained.scanned == set()
    # The table has some 5,000 blocks of 260,000 jobs.
    assert explained.blocks < most


@pytest.mark.parametrize(
    ("given", "found", "most"),
    [
        ({}, 50, 2_500),
        ({"ids": list(range(1, 200_000, 2_000))}, 50, 1_000),
        ({"unique_key": "k", "states": ["available", "executing", "retryable"]}, 0, 100),
        ({"unique_key": "k", "states": ["discarded", "executing"]}, 0, 15_000),
        ({"worker_id": 1, "states": ["executing"]}, 50, 1_500),
        ({"states": ["executing"]}, 50, 1_500),
        ({"states": ["executing"], "queues": ["none"]}, 0, 1_500),
        ({"states": ["retryable"]}, 50, 3_000),
        ({"states": ["retryable"], "queues": ["default"]}, 50, 1_000),
        ({"states": ["discarded"]}, 50, 1_000),
        ({"states": ["discarded"], "queues": ["failing"]}, 50, 1_000),
        # The newest 10,000 jobs are discarded; behind them all waiting ones of the queue are read.
        ({"states": ["available"], "queues": ["none"]}, 0, 1_500),
        ({"states": ["available", "retryable"], "queues": ["default"]}, 50, 60_000),
        ({"finished_after": timedelta(hours=-12)}, 50, 20_000),
        ({"finished_after": timedelta(hours=-12), "states": ["cancelled"]}, 0, 100),
        # None is cancelled: behind the newest 10,000 jobs the index says so.
        ({"states": ["cancelled"]}, 0, 1_500),
    ],
    ids=str,
)
def test_a_page_reads_the_jobs_that_may_fit(
    large: JobTable, given: dict[str, Any], found: int, most: int
) -> None:
    now = datetime.now(UTC)
    given = {
        name: now + value if isinstance(value, timedelta) else value
        for name, value in given.items()
    }
    where = check_filter(given, everything=not given).among(list(JobState))
    scanned, blocks, jobs = explained_page(large, list_jobs(where, below=MAX_ID, limit=50))
    assert jobs == found
    # The archive is empty.
    assert "jobs" not in scanned
    assert blocks < most


@pytest.mark.parametrize(
    ("where", "most"),
    [
        ("state = 'executing'", 200),
        ("state = 'completed'", 200),
        ("state = 'retryable'", 200),
        ("state = 'available' and scheduled_at > now() and priority = 1", 200),
        # The last of 2,000 due jobs, behind 50,000 future ones of three priorities; 300 run.
        ("state = 'available' and scheduled_at <= now()", 3_000),
    ],
)
def test_an_explanation_reads_few_blocks(large: JobTable, where: str, most: int) -> None:
    job_id = large.value(f"select max(id) from roost.jobs where {where}")
    with large.connection.transaction():
        found = large.run(explain_job(job_id))
        large.run(bound_search())
        text = statement("explain.facts").text
        explained = large.value(f"explain (analyze, buffers, format json) {text}", job_id)
    [root] = json.loads(explained) if isinstance(explained, str) else explained
    nodes = list(_nodes(root["Plan"]))
    scans = {node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"}
    assert "jobs" not in scans
    assert root["Plan"]["Shared Hit Blocks"] + root["Plan"]["Shared Read Blocks"] < most
    if "<=" in where:
        assert found.reason is ExplanationReason.UNKNOWN_TASK


def explained_page(table: JobTable, page: Op[list[Job]]) -> tuple[set[str], int, int]:
    """Return what the statements of a page scan, the blocks that they read, and its jobs."""
    scanned: set[str] = set()
    blocks = 0
    query = next(page)
    with table.connection.raw.transaction(force_rollback=True):
        while True:
            text = query.statement.text
            if not query.statement.name.endswith(("begin_snapshot", "bound_search")):
                # The session reads the catalog at the first run.
                table.rows(text, *query.params)
                explain = f"explain (analyze, buffers, format json) {text}"
                value = table.value(explain, *query.params)
                [root] = json.loads(value) if isinstance(value, str) else value
                nodes = list(_nodes(root["Plan"]))
                scanned |= {
                    node["Relation Name"] for node in nodes if node["Node Type"] == "Seq Scan"
                }
                blocks += root["Plan"]["Shared Hit Blocks"] + root["Plan"]["Shared Read Blocks"]
            rows = table.rows(text, *query.params)
            try:
                query = page.send(rows)
            except StopIteration as end:
                return scanned, blocks, len(end.value)


def test_ranges_of_ends_have_statistics(large: JobTable) -> None:
    """Without, the planner takes a third of the table for the last hour's jobs."""
    if large.value("select current_setting('server_version_num')::int") < 140_000:
        pytest.skip("Postgres 13 has no statistics on expressions")
    text = """
        select from roost.jobs
        where state in ('completed', 'discarded', 'cancelled')
            and greatest(completed_at, cancelled_at, discarded_at) < now() - interval '2 days'
    """
    plan = Plan(large, Statement("ended", text), run=False)
    assert plan.root["Plan"]["Plan Rows"] < FINISHED / 100
