"""Several workers on one database, asyncio and trio: each job runs once, under shared limits."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from itertools import pairwise
from typing import TYPE_CHECKING

from tests.support.job_table import JobTable

from roost._model.job import JobInsert

if TYPE_CHECKING:
    from tests.chaos.conftest import Chaos

MANY = 5_000
SERIAL = 40
RATE = 20
FOUR = ("asyncio", "trio", "asyncio", "trio")
THREE = ("asyncio", "trio", "asyncio")


def test_five_thousand_jobs_over_four_processes_run_once_each(chaos: Chaos) -> None:
    workers = chaos.start_ready(*FOUR)
    began = time.monotonic()
    jobs = chaos.table.add_all([JobInsert("note") for _ in range(MANY)])
    chaos.until(lambda: chaos.table.states() == {"completed": MANY}, within=60)
    chaos.measure("jobs/s over 4 processes", MANY / (time.monotonic() - began))

    entries = chaos.journal()
    assert Counter(entry.job_id for entry in entries) == Counter(jobs)
    assert {entry.attempt for entry in entries} == {1}
    shares = Counter(entry.pid for entry in entries)
    assert set(shares) == {worker.pid for worker in workers}
    assert chaos.table.rows(
        "select distinct attempt, lease_no, errors is null from roost.jobs"
    ) == [(1, 1, True)]


def test_two_jobs_of_a_task_with_concurrency_one_never_overlap(chaos: Chaos) -> None:
    queues = ("one", "two")
    chaos.start_ready(*THREE, queues=queues)
    dice = random.Random(33)
    began = time.monotonic()
    jobs = [
        chaos.table.add("serial", queue=dice.choice(queues), priority=dice.randrange(3))
        for _ in range(SERIAL)
    ]
    while set(chaos.table.states()) != {"completed"}:
        assert time.monotonic() - began < 60, chaos.table.states()
        chaos.table.change(
            dice.choice(jobs), f"priority = {dice.randrange(3)}, queue = '{dice.choice(queues)}'"
        )
    chaos.measure("serial jobs/s over 3 processes", SERIAL / (time.monotonic() - began))

    spans = sorted(
        (entry.at, next(e.at for e in chaos.journal(entry.job_id, "ended")))
        for entry in chaos.journal(event="started")
    )
    assert len(spans) == SERIAL
    assert all(ended <= started for (_, ended), (started, _) in pairwise(spans))


def test_a_rate_limit_holds_over_all_workers_for_every_outcome(chaos: Chaos) -> None:
    chaos.start_ready(*THREE, poll_interval=0.2)
    chaos.table.add_all(
        [
            JobInsert("rated", args={"how": how}, max_attempts=5)
            for how in ("fine", "fail", "snooze") * (2 * RATE)
        ]
    )
    chaos.until(lambda: len(chaos.journal()) >= RATE)
    # Failed and snoozed jobs are due again by then, and two thirds have not run at all.
    time.sleep(5)  # sleeps: long enough for a start beyond the rate
    entries = chaos.journal()
    assert len(entries) == RATE
    assert {entry.attempt for entry in entries} == {1}
    waiting = chaos.table.value(
        "select count(*) from roost.jobs where state in ('available', 'retryable') "
        "and scheduled_at < now()"
    )
    assert waiting > RATE


def test_eight_roost_inits_at_once_all_succeed(empty_dsn: str) -> None:
    command = [sys.executable, "-m", "roost", "init"]
    environment = {**os.environ, "ROOST_DSN": empty_dsn}
    inits = [
        subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        for _ in range(8)
    ]
    outputs = [init.communicate(timeout=60)[0] for init in inits]
    assert [init.returncode for init in inits] == [0] * 8, outputs
    assert sum("applied" in text for text in outputs) == 1
    assert sum("Nothing to do" in text for text in outputs) == 7
    with JobTable(empty_dsn) as table:
        table.add("work")
