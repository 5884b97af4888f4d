"""What became of the demo's jobs, as the table has it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import attrs

from roost.cli.demo.recount import recount_file, recount_folder
from roost.cli.demo.tree import Tree

JOBS = """
select id, task, args, state, attempt, max_attempts, errors, result
from roost.jobs
where queue = %s
order by id
"""

TIMES = """
select
    extract(epoch from max(completed_at) - min(inserted_at))::float8,
    count(*) filter (where attempt = 1 and task <> 'summary'),
    extract(epoch from max(completed_at) filter (where attempt = 1 and task <> 'summary')
        - min(inserted_at))::float8,
    percentile_cont(0.5) within group (
        order by extract(epoch from attempted_at - greatest(inserted_at, scheduled_at))
    ) filter (where attempt = 1),
    max(extract(epoch from attempted_at - inserted_at)::float8) filter (where task = 'summary')
from roost.jobs
where queue = %s
"""


@attrs.frozen
class Row:
    """One job."""

    id: int
    task: str
    args: dict[str, Any]
    state: str
    attempt: int
    max_attempts: int
    errors: list[dict[str, Any]] | None
    result: dict[str, Any] | None


@attrs.frozen
class Times:
    """Seconds by the database's clock.

    :param total: from the first insert to the last completion, waits before retries included.
    :param straight: how many jobs went through at the first attempt.
    :param straight_seconds: from the first insert to the last of their completions.
    :param pickup: the median from insert to claim, waits for a free slot included.
    :param idle_pickup: the same of the summary, for which an idle worker was waiting.
    """

    total: float
    straight: int
    straight_seconds: float
    pickup: float
    idle_pickup: float


@attrs.frozen(kw_only=True)
class Outcome:
    """The whole demo.

    :param rolled_back: the id of a job whose transaction was rolled back.
    :param calls: how often the handlers of each task were called.
    """

    rows: tuple[Row, ...]
    times: Times
    server: str
    rolled_back: int
    calls: Counter[str] = attrs.field(factory=Counter)


@attrs.frozen(kw_only=True)
class Recount:
    """The counts of a plain loop: by path, and by the paths of a folder; ``None`` where it failed.

    :param changed: files that are not as they were found, whose counts can't be compared.
    """

    files: dict[str, dict[str, int] | None]
    folders: dict[tuple[str, ...], dict[str, Any] | None]
    changed: frozenset[str]


async def read_outcome(connection: Any, queue: str, *, rolled_back: int) -> Outcome:
    """Read all jobs of the queue, on a connection of `AsyncRoost.transaction`."""
    rows = [Row(*row) for row in await (await connection.execute(JOBS, (queue,))).fetchall()]
    [times] = await (await connection.execute(TIMES, (queue,))).fetchall()
    [[server]] = await (await connection.execute("show server_version")).fetchall()
    return Outcome(rows=tuple(rows), times=Times(*times), server=server, rolled_back=rolled_back)


def recount(tree: Tree, *, late: str) -> Recount:
    """Count everything without the queue.

    :param late: the file that was written while the demo ran, complete by now.
    """
    paths = [file.path for file in tree.files]
    return Recount(
        files={path: recount_file(path) for path in [*paths, late]},
        folders={
            tuple(file.path for file in files): recount_folder([file.path for file in files])
            for _, files in tree.by_folder()
        },
        # Looked at last, so that a file that changes during the count is found as well.
        changed=frozenset(file.path for file in tree.files if not file.is_unchanged()),
    )
