"""Check the demo's outcome against what was enqueued, and against a plain loop over the files."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from roost.cli.demo.scenario import Outcome, Row


def find_faults(outcome: Outcome) -> list[str]:
    """Return a sentence for each job that was lost, ran wrongly or finished twice."""
    return [
        *_lost_jobs(outcome),
        *_wrong_stores(outcome),
        *(fault for row in outcome.rows for fault in _wrong_row(row, outcome)),
        *([] if rescued(outcome) else ["no job of the killed worker was rescued"]),
    ]


def rescued(outcome: Outcome) -> list[Row]:
    """Return the jobs that were running in the killed worker."""
    return [row for row in outcome.rows if any(map(_is_crash, row.errors or []))]


def _is_crash(error: dict[str, object]) -> bool:
    return str(error.get("error", "")).startswith("WorkerCrash")


def _lost_jobs(outcome: Outcome) -> Iterator[str]:
    wanted = {*outcome.enqueued, outcome.total}
    there = {row.id for row in outcome.rows}
    for job_id in sorted(wanted - there):
        yield f"job {job_id} is lost: it has no row"
    for job_id in sorted(there - wanted):
        why = "its transaction was rolled back" if job_id == outcome.rolled_back else "unknown"
        yield f"job {job_id} exists and should not: {why}"


def _wrong_stores(outcome: Outcome) -> Iterator[str]:
    times = Counter(job_id for job_id, _ in outcome.stored)
    for job_id in sorted({*outcome.enqueued, *times}):
        if times[job_id] != (job_id in outcome.enqueued):
            yield f"job {job_id} stored its count {times[job_id]} times"


def _wrong_row(row: Row, outcome: Outcome) -> Iterator[str]:
    if row.state != "completed" or row.attempt != 1 + len(row.errors or []):
        yield (
            f"job {row.id} is {row.state} at attempt {row.attempt} with "
            f"{len(row.errors or [])} errors"
        )
    if row.task == "total":
        wanted = sum(_count(other.args["path"]) for other in outcome.rows if other.task == "count")
    else:
        wanted = _count(row.args["path"])
        if (row.id, wanted) not in outcome.stored:
            yield f"job {row.id} did not store {wanted} lines for {row.args['path']}"
    if row.result != wanted:
        yield f"job {row.id} ({row.task}) has the result {row.result}; a plain loop has {wanted}"


def _count(path: str) -> int:
    with Path(path).open(encoding="utf-8") as file:
        return sum(1 for _ in file)
