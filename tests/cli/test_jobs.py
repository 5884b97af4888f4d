"""`roost jobs` lists, shows, retries, cancels and deletes jobs."""

from __future__ import annotations

import inspect
import json
from dataclasses import fields
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

from roost import Explanation, Job, JobFilter
from roost.cli.job_filter import KEYWORDS, OPTIONS

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand

BAD = {
    "error": "ValueError: bad\nname",
    "trace": "Traceback\n  line",
    "at": "2026-06-01T12:00:00+00:00",
    "started_at": "2026-06-01T11:59:00+00:00",
    "worker": "host:7",
    "worker_id": 3,
    "attempt": 1,
}


def fail(table: JobTable, job_id: int, *, ago: str = "0") -> int:
    table.rows(
        "update roost.jobs set state = 'discarded', attempt = 1, attempted_at = now(), "
        f"discarded_at = now() - interval '{ago}', errors = jsonb_build_array($2::text::jsonb) "
        "where id = $1::bigint",
        job_id,
        json.dumps(BAD),
    )
    return job_id


def test_the_options_are_the_keywords_of_the_filter() -> None:
    names = {KEYWORDS.get(name, name) for name in OPTIONS} - {"older"}
    assert names == set(inspect.get_annotations(JobFilter)) - {"ids"}


def test_jobs_are_listed_newest_first(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    first, second = table.add("send", queue="mail"), fail(table, table.add("report"))
    done = run_command("jobs", "list", "--dsn", dsn)
    assert done.code == 0
    [newest, oldest] = done.rows
    assert newest[:5] == [str(second), "discarded", "default", "report", "1/20"]
    assert newest[6] == r"ValueError: bad\nname"
    assert oldest[:5] == [str(first), "available", "mail", "send", "0/20"]
    ended = table.value("select discarded_at from roost.jobs where id = $1::bigint", second)
    assert newest[5] == f"{ended:%Y-%m-%dT%H:%M:%SZ}"


def test_json_has_all_fields_of_the_jobs(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    job_id = fail(table, table.add("report", args={"day": 1}, tags=["a"]))
    [job] = run_command("jobs", "list", "--json", ROOST_DSN=dsn).json
    assert list(job) == list(Job.model_fields)
    assert (job["id"], job["args"], job["tags"], job["errors"]) == (
        job_id,
        {"day": 1},
        ["a"],
        [BAD],
    )
    assert job["inserted_at"].endswith("Z")
    assert run_command("jobs", "show", job_id, "--json", ROOST_DSN=dsn).json == job


def test_a_page_follows_the_last_job_of_the_page_before(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    ids = [table.add() for _ in range(5)]
    page = ["jobs", "list", "--limit", "2", "--json", "--dsn", dsn]
    assert [job["id"] for job in run_command(*page).json] == [ids[4], ids[3]]
    assert [job["id"] for job in run_command(*page, "--after", ids[3]).json] == [ids[2], ids[1]]


def test_a_job_must_fit_all_options(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    wanted = table.add("send", queue="mail", tags=["a"])
    table.add("send", queue="mail")
    table.add("send", tags=["a"])
    found = run_command("jobs", "list", "-q", "mail", "--tag", "a", "--json", "--dsn", dsn).json
    assert [job["id"] for job in found] == [wanted]
    states = ("--state", "available", "--state", "discarded")
    assert len(run_command("jobs", "list", *states, "--json", "--dsn", dsn).json) == 3


def test_a_duration_is_that_long_ago_by_the_database(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    old, new = table.add(), table.add()
    table.change(old, "inserted_at = now() - interval '2 hours'")

    def listed(*options: str) -> list[int]:
        jobs = run_command("jobs", "list", *options, "--json", "--dsn", dsn).json
        return [job["id"] for job in jobs]

    assert listed("--older", "1h") == [old]
    assert listed("--inserted-before", "90m") == [old]
    assert listed("--inserted-after", "1h") == [new]
    assert listed("--older", "3h") == []
    fail(table, old, ago="1 day")
    assert listed("--finished-before", "23h") == [old]
    assert listed("--finished-after", "23h") == []


def test_a_job_is_shown_with_its_errors(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    job_id = fail(table, table.add("report", args={"day": 1}))
    done = run_command("jobs", "show", job_id, "--dsn", dsn)
    lines = done.out.splitlines()
    assert lines[0].split() == ["id", str(job_id)]
    assert '{"day": 1}' in done.out
    assert lines[lines.index("error of attempt 1") :] == [
        "error of attempt 1",
        "    ValueError: bad",
        "    name",
        "    at 2026-06-01T12:00:00+00:00, started 2026-06-01T11:59:00+00:00, by host:7",
        "    Traceback",
        "      line",
    ]


def test_it_says_why_a_job_does_not_run(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    job_id = table.add(queue="mail")
    table.change(job_id, "scheduled_at = '2036-06-01 12:00Z'")
    run_command("queue", "pause", "mail", "--dsn", dsn)
    found = run_command("jobs", "why", job_id, "--json", "--dsn", dsn).json
    assert list(found) == [field.name for field in fields(Explanation)]
    assert (found["reason"], found["expected_at"]) == ("scheduled", "2036-06-01T12:00:00Z")
    also = [other["reason"] for other in found["also"]]
    assert "queue_paused" in also

    lines = run_command("jobs", "why", job_id, "--dsn", dsn).out.splitlines()
    assert lines[0] == "available, scheduled"
    assert lines[1] == found["message"] + " Expected: 2036-06-01T12:00:00Z."
    assert lines[2:] == [other["message"] for other in found["also"]]
    assert run_command("jobs", "why", 999, "--dsn", dsn).code == 1


def test_ids_need_no_question(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    failed, waiting = fail(table, table.add()), table.add()
    done = run_command("jobs", "retry", failed, "--dsn", dsn)
    assert (done.code, done.out) == (0, f"retried {failed}\n")
    assert table.get(failed).state == "available"

    done = run_command("jobs", "cancel", failed, waiting, failed, "--json", "--dsn", dsn)
    assert done.json == {"cancelled": 2, "ids": [failed, waiting]}

    done = run_command("jobs", "delete", failed, "--dsn", dsn)
    assert (done.code, done.out) == (0, f"deleted {failed}\n")


def test_an_id_that_was_not_changed_is_said(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    waiting, failed = table.add(), fail(table, table.add())
    done = run_command("jobs", "retry", waiting, failed, 999, "--dsn", dsn)
    assert (done.code, done.out) == (1, f"retried {failed}\n")
    assert done.err.splitlines() == [
        f"roost: job {waiting} is available or running already",
        "roost: no job has the id 999",
    ]
    done = run_command("jobs", "cancel", 999, "--dsn", dsn)
    assert (done.code, done.out, done.err) == (1, "", "roost: no job has the id 999\n")

    table.claim(table.add_worker())
    done = run_command("jobs", "delete", waiting, "--dsn", dsn)
    assert (done.code, done.err) == (1, f"roost: job {waiting} is running: cancel it first\n")


def test_a_refused_job_is_not_done(dsn: str, table: JobTable, run_command: RunsCommand) -> None:
    parent = table.add()
    enqueued = run_command("enqueue", "work", "--depends-on", parent, "--json", "--dsn", dsn)
    child = enqueued.json["job_id"]
    run_command("jobs", "cancel", parent, "--dsn", dsn)
    done = run_command("jobs", "retry", child, "--dsn", dsn)
    assert (done.code, done.out) == (1, "")
    assert f"waits for job {parent}, which was cancelled: retry it first" in done.err


def test_a_lost_database_ends_the_call(run_command: RunsCommand) -> None:
    done = run_command("jobs", "retry", 1, 2, 3, "--dsn", "postgresql://127.0.0.1:1/none")
    assert (done.code, done.out, done.err.count("\n")) == (1, "", 1)


VERBS = [
    ("retry", ["--state", "discarded"], {"available": 3}),
    ("cancel", ["--state", "available"], {"cancelled": 1, "discarded": 2}),
    ("delete", ["--task", "report"], {"available": 1}),
]


@pytest.mark.parametrize(("verb", "options", "after"), VERBS)
def test_the_jobs_of_a_filter_are_counted_before_a_question(
    verb: str,
    options: list[str],
    after: dict[str, int],
    dsn: str,
    table: JobTable,
    run_command: RunsCommand,
) -> None:
    table.add("send")
    for _ in range(2):
        fail(table, table.add("report"))
    before = table.states()
    changed = 1 if verb == "cancel" else 2

    done = run_command("jobs", verb, *options, "--dsn", dsn)
    noun = "job" if changed == 1 else "jobs"
    assert done.code == 2
    assert done.err == (
        f"roost: {verb.capitalize()} {changed} {noun}? No terminal can answer: pass --yes\n"
    )
    assert table.states() == before
    assert run_command("jobs", verb, *options, "--dsn", dsn, stdin="n\n").code == 1
    assert table.states() == before

    agreed = {"stdin": "yes\n"} if verb == "delete" else {}
    yes = [] if agreed else ["--yes"]
    done = run_command("jobs", verb, *options, *yes, "--json", "--dsn", dsn, **agreed)
    assert done.code == 0
    assert list(done.json.values()) == [changed]
    assert table.states() == after


def test_without_jobs_there_is_no_question(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add()
    done = run_command("jobs", "cancel", "--task", "other", "--dsn", dsn)
    assert (done.code, done.out) == (0, "cancelled 0 jobs\n")


def test_ids_and_a_filter_must_both_fit(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    one, two = table.add(queue="mail"), table.add(queue="post")
    done = run_command("jobs", "cancel", one, two, "-q", "mail", "--yes", "--dsn", dsn)
    assert done.out == "cancelled 1 job\n"
    assert (table.get(one).state, table.get(two).state) == ("cancelled", "available")


def test_a_limit_changes_the_jobs_with_the_lowest_ids(
    dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    ids = [table.add() for _ in range(3)]
    done = run_command("jobs", "cancel", "--everything", "--limit", "2", "--dsn", dsn)
    assert "Cancel 2 jobs?" in done.err
    done = run_command("jobs", "cancel", "--everything", "--limit", "2", "--yes", "--dsn", dsn)
    assert done.out == "cancelled 2 jobs\n"
    assert [table.get(job_id).state for job_id in ids] == ["cancelled", "cancelled", "available"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["cancel"], "say which jobs to cancel: pass ids or a filter, or --everything for all"),
        (["delete", "--limit", "1"], "say which jobs to delete"),
        (["cancel", "1", "--everything"], "--everything and --limit don't go with ids"),
        (["cancel", "-q", "a", "--everything"], "--everything means all jobs"),
        (["cancel", "--older", "1h", "--inserted-before", "1h"], "pass one of them"),
        (["cancel", "--older", "soon"], "'soon' is neither a time nor a duration"),
        (["cancel", "--older", "90000000w"], "is before the calendar begins"),
        (["cancel", "--worker", "0"], "worker_id must be"),
        (["cancel", "--state", "done"], "Invalid value for '--state': 'done' is not one of"),
        (["list", "--limit", "1001"], "Invalid value for '--limit'"),
        (["show", "x"], "Invalid value for 'ID'"),
    ],
)
def test_a_wrong_call_changes_nothing(
    arguments: list[str], message: str, dsn: str, table: JobTable, run_command: RunsCommand
) -> None:
    table.add()
    done = run_command(
        "jobs", *arguments, "--yes" if arguments[0] == "cancel" else "--json", ROOST_DSN=dsn
    )
    assert done.code == 2, done.err
    assert message in done.err
    assert done.err.count("\n") == 1
    assert table.states() == {"available": 1}
