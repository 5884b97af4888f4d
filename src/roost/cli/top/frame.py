"""Draw one frame of ``roost top`` as lines of text: a pure function of the view and the size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Generic, TypeVar

import attrs
from rich.cells import cell_len, set_cell_size
from rich.text import Text

from roost import Job, QueueInfo, Throughput
from roost.cli.output import cell
from roost.cli.top.snapshot import Snapshot, began_at, failed_at
from roost.cli.top.view import Section, View

T = TypeVar("T")

KEYS = "q quit  tab section  up/down select  p pause/resume  c cancel  r retry"
MIN_HEIGHT = 15
"""Lines below which only the section that is looked at is drawn."""
LAG = 1.0
"""Seconds that an event loop is late from which it is shown in red."""


@attrs.frozen
class Column(Generic[T]):
    """A column: its heading, what it shows, and its width; 0: what is left."""

    heading: str
    show: Callable[[T, datetime], str]
    width: int
    optional: bool = False
    right: bool = True


@attrs.frozen
class QueueRow:
    """A queue, and what ended in it in the last minute; ``None``: not known."""

    queue: QueueInfo
    minute: Throughput | None


QUEUE_COLUMNS: Sequence[Column[QueueRow]] = (
    Column("QUEUE", lambda row, _: cell(row.queue.name), 0, right=False),
    Column("READY", lambda row, _: number(row.queue.available), 6),
    Column("SCHED", lambda row, _: number(row.queue.scheduled), 6),
    Column("RETRY", lambda row, _: number(row.queue.retryable), 6),
    Column("BLOCKED", lambda row, _: number(row.queue.blocked), 7, optional=True),
    Column("FAILED", lambda row, _: number(row.queue.discarded), 7, optional=True),
    Column("RUN", lambda row, _: number(row.queue.executing), 6),
    Column("ENDED/M", lambda row, _: number(row.minute.attempts if row.minute else 0), 7),
    Column("FAILS/M", lambda row, _: number(row.minute.failures if row.minute else 0), 7),
    Column("OLDEST", lambda row, now: oldest(row.queue, now), 10),
)
RUNNING_COLUMNS: Sequence[Column[Job]] = (
    Column("TASK", lambda job, _: cell(job.task), 0, right=False),
    Column("ID", lambda job, _: str(job.id), 10),
    Column("QUEUE", lambda job, _: cell(job.queue), 16, right=False),
    Column("AGE", lambda job, now: age((now - began_at(job)).total_seconds()), 7),
    Column("ATTEMPT", lambda job, _: f"{job.attempt}/{job.max_attempts}", 8),
)
FAILURE_COLUMNS: Sequence[Column[Job]] = (
    Column("TASK", lambda job, _: cell(job.task), 18, right=False),
    Column("ID", lambda job, _: str(job.id), 10),
    Column("STATE", lambda job, _: job.state, 9, right=False),
    Column("AGO", lambda job, now: age((now - failed_at(job)).total_seconds()), 6),
    Column("ERROR", lambda job, _: first_line(job), 0, right=False),
)


def draw(view: View, *, width: int, height: int | None, now: datetime) -> list[Text]:
    """Return the lines of a frame. None is wider than ``width``.

    :param height: the most lines; ``None``: all rows, for a frame that is printed once.
    """
    body_height = None if height is None else max(height - 5, 1)
    lines = [*_header(view, now), *_body(view, width, body_height, now)]
    if height is not None:
        del lines[max(height - 2, 0) :]
        lines += [Text()] * (height - 2 - len(lines))
        lines += [_status(view, now), Text(KEYS, "dim")][: max(height, 0)]
    elif view.cut_off_since is not None:
        lines.append(_status(view, now))
    for line in lines:
        line.truncate(width, overflow="crop")
    return lines if height is None else lines[:height]


def _header(view: View, now: datetime) -> list[Text]:
    first = Text.assemble(
        ("roost top", "bold"), f"  {cell(view.source)}  {now.astimezone(UTC):%H:%M:%S} UTC"
    )
    shown = view.snapshot
    if shown is None:
        return [first, Text("reading ...", "dim")]
    slots = sum(worker.concurrency for worker in shown.workers)
    used = sum(worker.running for worker in shown.workers)
    workers = len(shown.workers)
    second = Text(
        f"{workers} worker{'' if workers == 1 else 's'}  {used}/{slots} slots in use  "
        f"{number(sum(queue.available for queue in shown.overview.queues))} jobs ready  "
        f"{number(sum(queue.executing for queue in shown.overview.queues))} running",
        "" if workers else "bold red",
    )
    lag = max((worker.loop_lag for worker in shown.workers), default=0.0)
    second.append(f"  loop lag {age(lag)}", "bold red" if lag >= LAG else "")
    return [first, second, _throughput(shown.overview.total.minute)]


def _throughput(minute: Throughput) -> Text:
    text = Text(f"last minute: {minute.per_second:.3g}/s, ")
    text.append(f"{number(minute.failures)} failed", "bold red" if minute.failures else "")
    for name, times in (("wait", minute.wait), ("run", minute.run)):
        percentiles = "/".join(map(age, (times.p50, times.p95, times.p99)))
        text.append(f"  {name} {percentiles}")
    return text.append("  (p50/p95/p99)")


def _status(view: View, now: datetime) -> Text:
    if view.question is not None:
        question = f"{view.question.action.value} {cell(view.question.key)}? y or n"
        return Text(question, "bold reverse")
    if view.cut_off_since is not None:
        since = f"{view.cut_off_since.astimezone(UTC):%H:%M:%S} UTC"
        long = age((now - view.cut_off_since).total_seconds())
        return Text(f"cut off since {since} ({long}): {cell(view.error)}", "bold red")
    return Text(cell(view.message) if view.message else "", "bold")


def _body(view: View, width: int, height: int | None, now: datetime) -> list[Text]:
    shown = view.snapshot
    if shown is None:
        return []
    counts = {section: len(keys) for section, keys in view.keys().items()}
    rooms = _rooms(counts, view.section, height)
    lines: list[Text] = []
    for section, room in rooms.items():
        place = _Place(
            index=view.index(section),
            looked_at=section is view.section,
            room=room,
            width=width,
            now=now + timedelta(seconds=shown.clock_ahead),
        )
        lines += _section(shown, section, place)
    return lines


@attrs.frozen(kw_only=True)
class _Place:
    """Where a section is drawn.

    :param index: the selected row.
    :param room: rows besides the heading.
    """

    index: int
    looked_at: bool
    room: int
    width: int
    now: datetime


def _rooms(
    counts: dict[Section, int], looked_at: Section, height: int | None
) -> dict[Section, int]:
    """Return how many rows of each section are drawn, besides its heading."""
    if height is None:
        return counts
    if height < MIN_HEIGHT - 5:
        return {looked_at: max(height - 1, 0)}
    left = height - len(counts)
    share = left // len(counts)
    rooms = {section: min(count, share) for section, count in counts.items()}
    left -= sum(rooms.values())
    for section in (looked_at, *counts):
        more = min(counts[section] - rooms[section], left)
        rooms[section] += more
        left -= more
    return rooms


def _section(shown: Snapshot, section: Section, place: _Place) -> list[Text]:
    if section is Section.QUEUES:
        by_queue = shown.overview.by_queue
        rows = [
            QueueRow(queue, by_queue[queue.name].minute if queue.name in by_queue else None)
            for queue in shown.overview.queues
        ]
        return _table(section.value, QUEUE_COLUMNS, rows, place)
    if section is Section.RUNNING:
        return _table(section.value, RUNNING_COLUMNS, shown.running, place)
    return _table(section.value, FAILURE_COLUMNS, shown.failed, place)


def _table(
    title: str, columns: Sequence[Column[T]], rows: Sequence[T], place: _Place
) -> list[Text]:
    """Draw a heading and the rows around the selected one."""
    fitting = _fitting(columns, place.width)
    headings = [f"{title} ({len(rows)})", *(column.heading for column in fitting[1:])]
    heading = _line(headings, fitting, place.width)
    lines = [Text(heading, "bold reverse" if place.looked_at else "bold")]
    first = max(min(place.index - place.room + 1, len(rows) - place.room), 0)
    for n, row in enumerate(rows[first : first + place.room], first):
        text = _line([column.show(row, place.now) for column in fitting], fitting, place.width)
        chosen = place.looked_at and n == place.index
        lines.append(Text(text, "reverse" if chosen else ""))
    return lines


def _fitting(columns: Sequence[Column[T]], width: int) -> list[Column[T]]:
    """Return the columns without the optional ones, if all together are too wide."""
    needed = sum(column.width or 20 for column in columns) + len(columns)
    return [column for column in columns if needed <= width or not column.optional]


def _line(cells: Sequence[str], columns: Sequence[Column[T]], width: int) -> str:
    fixed = sum(column.width for column in columns) + len(columns) - 1
    parts = []
    for text, column in zip(cells, columns, strict=True):
        room = column.width or max(width - fixed, 8)
        fitted = text if cell_len(text) <= room else set_cell_size(text, room - 1) + "~"
        missing = " " * (room - cell_len(fitted))
        parts.append(missing + fitted if column.right else fitted + missing)
    return " ".join(parts)


def number(value: int) -> str:
    """Return a count in at most five characters: ``9999``, ``12k``, ``1.2M``."""
    if value < 10_000:
        return str(value)
    return f"{value // 1_000}k" if value < 1_000_000 else f"{value / 1_000_000:.1f}M"


def age(seconds: float | None) -> str:
    """Return a duration in at most five characters: ``12ms``, ``45s``, ``12m``, ``3h``, ``9d``."""
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{max(seconds, 0) * 1_000:.0f}ms"
    for unit, size in (("d", 86_400), ("h", 3_600), ("m", 60)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f}{unit}"
    return f"{seconds:.0f}s"


def oldest(queue: QueueInfo, now: datetime) -> str:
    """Return how long a queue is paused, or else how long its oldest job has been due."""
    if queue.paused_at is not None:
        return f"paused {age((now - queue.paused_at).total_seconds())}"
    return age(queue.oldest_due_seconds)


def first_line(job: Job) -> str:
    """Return the first line of a job's last error."""
    error = str(job.errors[-1].get("error", ""))
    return cell(error.strip().splitlines()[0] if error.strip() else "")
