"""What `roost top` draws, and what its keys do: no terminal is needed."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from itertools import product

import pytest
from rich.cells import cell_len

from roost import Job, Overview, Percentiles, QueueInfo, Throughput, Windows, WorkerInfo
from roost.cli.top.frame import KEYS, age, draw, number
from roost.cli.top.snapshot import Snapshot
from roost.cli.top.view import Action, Question, Section, View

NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
LONG = "数" * 300
"""Wider than any terminal; each character takes two columns."""


def queue(name: str, *, paused: bool = False, available: int = 0) -> QueueInfo:
    return QueueInfo(
        name=name,
        paused_at=NOW - timedelta(minutes=5) if paused else None,
        available=available,
        scheduled=0,
        retryable=0,
        blocked=0,
        executing=1,
        prefetched=0,
        discarded=0,
        oldest_due_seconds=90.0,
        capped=False,
    )


def worker(*, loop_lag: float = 0.0) -> WorkerInfo:
    return WorkerInfo(
        id=1,
        name="host:1",
        queues=["default"],
        concurrency=8,
        started_at=NOW,
        heartbeat_at=NOW,
        heartbeat_interval=15.0,
        expires_at=NOW + timedelta(minutes=5),
        executing=1,
        prefetched=0,
        tasks=["work"],
        version="1",
        driver="psycopg",
        event_loop="trio",
        host="host",
        pid=1,
        running=3,
        waiting=0,
        loop_lag=loop_lag,
        slots=None,
    )


def job(job_id: int, *, task: str = "work", error: str | None = None) -> Job:
    record = {"attempt": 1, "at": "2026-06-01T11:59:00+00:00", "error": error}
    return Job(
        id=job_id,
        queue="default",
        task=task,
        args={},
        state="executing" if error is None else "discarded",
        attempt=1,
        max_attempts=20,
        priority=0,
        scheduled_at=NOW,
        attempted_at=NOW - timedelta(seconds=45),
        inserted_at=NOW,
        errors=[] if error is None else [record],
    )


def ended(attempts: int) -> Throughput:
    return Throughput(
        seconds=60.0,
        attempts=attempts,
        by_outcome={"completed": attempts - 3, "retried": 3},
        failures=3,
        per_second=attempts / 60,
        wait=Percentiles(p50=0.012, p95=0.08, p99=1.2),
        run=Percentiles(p50=None, p95=None, p99=None),
    )


def reading(
    *,
    queues: Sequence[QueueInfo] = (),
    workers: Sequence[WorkerInfo] = (),
    running: Sequence[Job] = (),
    failed: Sequence[Job] = (),
    clock_ahead: float = 0.0,
) -> Snapshot:
    lately = Windows(minute=ended(90), hour=ended(90), day=ended(90))
    overview = Overview(
        at=NOW,
        until=NOW,
        queues=list(queues),
        workers=list(workers),
        total=lately,
        by_queue={"name 1": lately},
        by_task={},
    )
    return Snapshot(overview=overview, clock_ahead=clock_ahead, running=running, failed=failed)


def view(*, queues: int = 3, running: int = 3, failed: int = 3, text: str = "name") -> View:
    shown = View(source="db", interval=2.0)
    shown.record_reading(
        reading(
            queues=[queue(f"{text} {n}", available=n) for n in range(queues)],
            workers=[worker()],
            running=[job(n, task=text) for n in range(running)],
            failed=[job(100 + n, task=text, error=f"{text}\nsecond line") for n in range(failed)],
        )
    )
    return shown


def lines(shown: View, *, width: int = 80, height: int | None = 24) -> list[str]:
    return [line.plain for line in draw(shown, width=width, height=height, now=NOW)]


@pytest.mark.parametrize("text", ["name", LONG, "tab\there", "\x1b[2Jcleared"])
def test_a_frame_never_exceeds_the_terminal(text: str) -> None:
    full = view(queues=30, running=30, text=text)
    full.message = text
    for width, height in product([1, 20, 40, 79, 80, 200], [1, 2, 3, 8, 12, 24, 40]):
        for shown in (View(source=text, interval=1.0), full):
            drawn = lines(shown, width=width, height=height)
            assert len(drawn) == height
            assert max(cell_len(line) for line in drawn) <= width
            assert not any(character in line for line in drawn for character in "\x1b\t\n")


def test_a_frame_shows_queues_running_jobs_and_failures() -> None:
    drawn = lines(view())
    assert drawn[1].startswith("1 worker  3/8 slots in use  3 jobs ready  3 running")
    assert drawn[2].startswith("last minute: 1.5/s, 3 failed  wait 12ms/80ms/1s  run -/-/-")
    assert drawn[3].split()[:3] == ["QUEUES", "(3)", "READY"]
    assert drawn[5].split() == ["name", "1", "1", "0", "0", "1", "90", "3", "90s"]
    assert drawn[6].split() == ["name", "2", "2", "0", "0", "1", "0", "0", "90s"]
    running = drawn.index(next(line for line in drawn if line.startswith("RUNNING (3)")))
    assert drawn[running + 1].split() == ["name", "0", "default", "45s", "1/20"]
    failures = drawn.index(next(line for line in drawn if line.startswith("FAILURES (3)")))
    assert drawn[failures + 1].split() == ["name", "100", "discarded", "60s", "name"]
    assert drawn[-1] == KEYS


def test_a_frame_for_a_file_shows_every_row() -> None:
    drawn = lines(view(queues=50, running=60, failed=70), height=None)
    assert len(drawn) == 3 + 3 + 50 + 60 + 70


def test_a_low_terminal_shows_the_section_that_is_looked_at() -> None:
    shown = view(queues=30)
    shown.press("tab")
    drawn = lines(shown, height=10)
    assert drawn[3].startswith("RUNNING (3)")
    assert not any(line.startswith(("QUEUES", "FAILURES")) for line in drawn)


def test_the_selected_row_is_always_drawn() -> None:
    shown = view(queues=100)
    for _ in range(80):
        shown.press("down")
    assert any(line.startswith("name 80 ") for line in lines(shown))
    for _ in range(200):
        shown.press("k")
    assert any(line.startswith("name 0 ") for line in lines(shown))


def test_a_selection_stays_with_its_row_and_falls_back_to_the_first() -> None:
    shown = view()
    shown.press("down")
    assert shown.index(Section.QUEUES) == 1
    assert shown.snapshot is not None
    later = view().snapshot
    assert later is not None
    shown.record_reading(
        reading(queues=[queue("new"), *later.overview.queues], workers=later.workers)
    )
    assert shown.index(Section.QUEUES) == 2
    shown.record_reading(reading())
    assert shown.index(Section.QUEUES) == 0
    shown.press("down")  # there is nothing to select
    assert lines(shown)[1].startswith("0 workers")


def test_each_action_is_asked_for_and_needs_a_yes() -> None:
    shown = view()
    assert shown.press("p") is None
    assert "pause queue name 0? y or n" in lines(shown)[-2]
    assert shown.press("n") is None
    assert shown.question is None
    shown.press("p")
    assert shown.press("y") == Question(Action.PAUSE, "name 0")
    shown.press("c")  # the jobs are in another section: show which one is meant first
    assert shown.section is Section.RUNNING
    assert shown.question is None
    shown.press("down")
    shown.press("c")
    assert shown.press("Y") == Question(Action.CANCEL, 1)
    shown.press("right")
    shown.press("r")
    assert shown.press("y") == Question(Action.RETRY, 100)


def test_a_paused_queue_is_resumed() -> None:
    shown = View(source="db", interval=1.0)
    shown.record_reading(reading(queues=[queue("mail", paused=True)]))
    assert "paused 5m" in lines(shown)[4]
    shown.press("p")
    assert shown.press("y") == Question(Action.RESUME, "mail")


def test_ages_are_by_the_clock_of_the_database() -> None:
    shown = View(source="db", interval=1.0)
    shown.record_reading(reading(running=[job(1)], clock_ahead=7_200.0))
    row = next(line for line in lines(shown) if line.startswith("work "))
    assert row.split() == ["work", "1", "default", "2h", "1/20"]


def test_while_the_database_is_away_the_last_reading_stays() -> None:
    shown = view()
    shown.record_failure("no answer", NOW - timedelta(seconds=30))
    shown.record_failure("still none", NOW)
    drawn = lines(shown)
    assert drawn[-2] == "cut off since 11:59:30 UTC (30s): still none"
    assert drawn[3].startswith("QUEUES (3)")
    shown.record_reading(view().snapshot or pytest.fail("no reading"))
    assert not any("cut off" in line for line in lines(shown))


def test_numbers_and_ages_are_short() -> None:
    assert [number(n) for n in (0, 9_999, 10_000, 1_250_000)] == ["0", "9999", "10k", "1.2M"]
    ages = [age(seconds) for seconds in (None, 0.012, 45, 150, 7_200, 200_000)]
    assert ages == ["-", "12ms", "45s", "2m", "2h", "2d"]


@pytest.mark.parametrize("key", ["q", "escape", "Q"])
def test_keys_leave(key: str) -> None:
    shown = view()
    shown.press(key)
    assert shown.ended
