"""Compare what the queue did with a count that was made without it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from roost.cli.demo.outcome import Outcome, Recount, Row
from roost.cli.demo.tasks import ATTEMPTS
from roost.cli.demo.troubles import Troubles


def find_faults(outcome: Outcome, counted: Recount, troubles: Troubles) -> list[str]:
    """Return a sentence for each count that is wrong; none if the demo went well."""
    return [
        *_wrong_jobs(outcome, counted, troubles),
        *_wrong_calls(outcome),
        *(fault for row in outcome.rows for fault in _wrong_result(row, counted, troubles)),
        *_wrong_summary(outcome, counted),
    ]


def _wrong_jobs(outcome: Outcome, counted: Recount, troubles: Troubles) -> Iterator[str]:
    """Each file and folder has exactly one job, and what was rolled back has none."""
    paths = Counter(row.args["path"] for row in outcome.rows if row.task == "index")
    wanted = {*counted.files, str(troubles.cut_off), str(troubles.utf16)}
    yield from _differ("the files that have exactly one job", paths, Counter(wanted))
    folders = Counter(tuple(row.args["paths"]) for row in outcome.rows if row.task == "fingerprint")
    yield from _differ(
        "the folders that have exactly one job", folders, Counter(list(counted.folders))
    )
    if any(row.id == outcome.rolled_back for row in outcome.rows):
        yield f"job {outcome.rolled_back} exists, though its transaction was rolled back"


def _wrong_calls(outcome: Outcome) -> Iterator[str]:
    """The handlers were called as often as the table has attempts: nothing ran twice."""
    attempts: Counter[str] = Counter()
    for row in outcome.rows:
        attempts[row.task] += row.attempt
    yield from _differ("attempts", attempts, outcome.calls)


def _wrong_result(row: Row, counted: Recount, troubles: Troubles) -> Iterator[str]:
    match row.task:
        case "index":
            path = row.args["path"]
            if path in counted.changed:
                return
            wanted = counted.files.get(path)
            if path == str(troubles.late):
                yield from _completed(row, wanted, attempts=range(2, row.max_attempts + 1))
            elif wanted is None:
                yield from _discarded(row)
            else:
                yield from _completed(row, wanted)
        case "fingerprint":
            paths = tuple(row.args["paths"])
            if not counted.changed.isdisjoint(paths):
                return
            folder = counted.folders.get(paths)
            yield from _discarded(row) if folder is None else _completed(row, folder)


def _completed(
    row: Row, wanted: dict[str, Any] | None, *, attempts: Sequence[int] = (1,)
) -> Iterator[str]:
    if row.state != "completed" or row.attempt not in attempts:
        yield f"{_named(row)} is {row.state} at attempt {row.attempt}, not completed"
    elif row.result != wanted:
        yield f"{_named(row)} counted {row.result}, a plain loop {wanted}"


def _discarded(row: Row) -> Iterator[str]:
    if (row.state, row.attempt, len(row.errors or ())) != ("discarded", ATTEMPTS, ATTEMPTS):
        yield (
            f"{_named(row)} is {row.state} at attempt {row.attempt} with "
            f"{len(row.errors or ())} errors, not discarded after {ATTEMPTS}"
        )


def _wrong_summary(outcome: Outcome, counted: Recount) -> Iterator[str]:
    """The summary is the sum of the results in the table, and of the plain loop's counts."""
    done = [row for row in outcome.rows if row.state == "completed" and row.result is not None]
    summaries = [row.result for row in done if row.task == "summary"]
    if len(summaries) != 1:
        yield f"{len(summaries)} summaries, not one"
        return
    files = [row.result or {} for row in done if row.task == "index"]
    folders = [row.result or {} for row in done if row.task == "fingerprint"]
    yield from _differ("the summary", summaries[0], _totals(files, folders))
    if not counted.changed:
        loop = _totals(
            [counts for counts in counted.files.values() if counts is not None],
            [counts for counts in counted.folders.values() if counts is not None],
        )
        yield from _differ("the summary", summaries[0], loop, "a plain loop")


def _totals(files: Sequence[dict[str, Any]], folders: Sequence[dict[str, Any]]) -> dict[str, int]:
    names = ("lines", "words", "definitions")
    return {
        "files": len(files),
        **{name: sum(counts[name] for counts in files) for name in names},
        "bytes": sum(counts["bytes"] for counts in folders),
    }


def _differ(what: str, seen: Any, wanted: Any, by: str = "expected") -> Iterator[str]:
    if seen == wanted:
        return
    keys = sorted({*seen, *wanted}, key=str)
    wrong = [
        f"{key}: {seen.get(key, 0)}, {by} {wanted.get(key, 0)}"
        for key in keys
        if seen.get(key, 0) != wanted.get(key, 0)
    ]
    yield f"{what} differ in {len(wrong)}: {'; '.join(wrong[:5])}"


def _named(row: Row) -> str:
    return f"{row.task} of {row.args.get('path') or row.args.get('paths')}"
