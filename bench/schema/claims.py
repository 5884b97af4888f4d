"""Compare versions of ``claim.sql`` by the CPU time of the server's process for one claim.

Every claim is prepared, run and rolled back, the versions in random order, so that a noisy
neighbor hits all of them. It empties the tables of a scratch database that has Roost's schema.
"""

from __future__ import annotations

import argparse
import random
import statistics
from pathlib import Path
from typing import Any

import psycopg

FINISHED, DUE, DEAD = 20_000, 100_000, 50_000
CASES = {
    # Queues, priorities, due jobs, dead index entries before them.
    "one queue": (1, 1, DUE, 0),
    "four queues": (4, 1, DUE, 0),
    "20 queues, 3 priorities": (20, 3, DUE, 0),
    "100 queues": (100, 1, DUE, 0),
    "nothing waits": (1, 1, 0, 0),
    "nothing waits, 4 queues": (4, 1, 0, 0),
    "dead entries": (1, 1, DUE // 5, DEAD),
    "dead entries, 4 queues": (4, 1, DUE // 5, DEAD),
}
WARM = 8
"""Claims before those that are measured: Postgres keeps a plan from the sixth on."""
INSERT = """
    insert into roost.jobs (queue, task, priority, scheduled_at)
    select 'q' || n % $1::int, 'work', n / $1::int % $2::int,
        now() - $3::interval + n * interval '10 ms'
    from generate_series(0, $4::int - 1) as n
"""


class Version:
    """A version of the claim, on a connection of its own."""

    def __init__(self, dsn: str, path: Path) -> None:
        self.name, self.text = path.stem, path.read_text(encoding="utf-8")
        self.connection = psycopg.connect(dsn, cursor_factory=psycopg.RawCursor)
        self.times: list[int] = []

    def claim(self, *params: object) -> None:
        """Claim, note the nanoseconds, and roll back."""
        clock = Path(f"/proc/{self.connection.info.backend_pid}/schedstat")
        before = int(clock.read_text().split()[0])
        self.connection.execute(self.text, params, prepare=True)
        self.times.append(int(clock.read_text().split()[0]) - before)
        self.connection.rollback()


def fill(hand: psycopg.Connection[Any], case: tuple[int, int, int, int]) -> int:
    """Fill the tables and return the id of a worker."""
    queues, priorities, due, dead = case
    hand.execute("truncate roost.jobs, roost.workers")
    hand.execute(
        "insert into roost.jobs (task, state, completed_at, attempt, worker_id, lease_no) "
        "select 'work', 'completed', now(), 1, 1, 1 from generate_series(1, $1::int)",
        [FINISHED],
    )
    hand.execute(INSERT, [queues, priorities, "2 hours", dead])
    hand.execute(INSERT, [queues, priorities, "1 hour", due])
    hand.execute("vacuum analyze roost.jobs")
    [worker_id] = hand.execute(
        "insert into roost.workers (name, queues, concurrency, expires_at) "
        "values ('bench', '{q0}', 10, now() + interval '1 day') returning id"
    ).fetchone() or [0]
    return int(worker_id)


def main() -> None:
    """Print a line for each case and number of jobs: microseconds, and the ratio to the first."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dsn", required=True)
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("versions", type=Path, nargs="+", help="files with one statement each")
    options = parser.parse_args()
    versions = [Version(options.dsn, path) for path in options.versions]
    hand = psycopg.connect(options.dsn, autocommit=True, cursor_factory=psycopg.RawCursor)
    for case, (queues, priorities, due, dead) in CASES.items():
        worker_id = fill(hand, (queues, priorities, due, dead))
        with psycopg.connect(options.dsn) as reader:
            if dead:  # and no vacuum may remove them
                reader.execute("set transaction isolation level repeatable read")
                reader.execute("select count(*) from roost.jobs")
                hand.execute(
                    "update roost.jobs set state = 'completed', completed_at = now() "
                    "where state = 'available' and scheduled_at < now() - interval '90 minutes'"
                )
            names = [f"q{number}" for number in range(queues)]
            for jobs in (1, 32, 128):
                for version in versions:
                    version.times.clear()
                for number in range(options.rounds + WARM):
                    for version in random.sample(versions, len(versions)):
                        what = (worker_id, names, ["work", "other"], jobs)
                        version.claim(*what, [], [], [], [], 10, number, True)
                medians = [statistics.median(version.times[WARM:]) for version in versions]
                line = ", ".join(
                    f"{version.name} {median / 1000:.0f} us ({median / medians[0]:.2f})"
                    for version, median in zip(versions, medians, strict=True)
                )
                print(f"{case}, {jobs} jobs: {line}", flush=True)


if __name__ == "__main__":
    main()
