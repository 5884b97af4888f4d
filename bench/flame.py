"""Where the worker's CPU time goes in a drain: a flame picture, and the functions it is spent in.

    python bench/flame.py [--dsn URL] [--jobs 60000] [--concurrency 32] [--rate 400] [--native]

Needs py-spy (`pip install py-spy`) on the PATH, or where $PY_SPY says. It stops the worker for each
sample, so the drain is slower than it is; the microseconds are those of a drain without it, shared
out by the samples. `--native` sees the compiled extensions too; it is slower still.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from bench.draining import ROOT, Drain, command, drain, environment
from bench.lab import RESULTS, Table, laboratory, machine, write_results
from bench.pictures import flame
from bench.situations import EMPTY, clone, prepared

FRAME = re.compile(r"(?P<function>.*) \((?P<file>[^()]*?)(?::\d+)?\)")
OUTER = re.compile(
    r".*(?:^|/)(?=(?:roost|anyio|psycopg|asyncio)/)|.*(?:site-packages|lib/python[\d.]+)/|^/.*/"
)
"""What comes before a file's package: folders of this machine."""
LOOP = ("Handle._run", "_run_once")
"""Frames of the event loop; what is above them is the same in all stacks."""
LANE = re.compile(r"\(roost/_worker/lanes/(\w+)\.py\)")
LINES = 30
HANDS_OVER = "BaseCursor._send_query_prepared (psycopg/_cursor_base.py)"
"""Where a worker loses the processor to the server that it wakes, on a machine with few cores: it
can run and is sampled, but uses no CPU time. Measured with thread_time and perf_counter on two
cores in November 2026: 22 us of CPU time in 740 us, for each statement. So it is left out here."""


def main() -> None:
    """Drain twice, once watched; draw and print what was seen."""
    options = arguments()
    py_spy = os.environ.get("PY_SPY") or shutil.which("py-spy")
    if py_spy is None:
        sys.exit("py-spy is missing: pip install py-spy, or say where it is in $PY_SPY")
    with (
        laboratory(options.dsn) as server_dsn,
        prepared(server_dsn, EMPTY, jobs=options.jobs) as template,
    ):
        about = machine(server_dsn)
        with clone(server_dsn, template) as dsn:
            alone = drain(Drain(dsn=dsn, jobs=options.jobs, concurrency=options.concurrency))
        with clone(server_dsn, template) as dsn:
            what = Drain(dsn=dsn, jobs=options.jobs, concurrency=options.concurrency)
            raw = watched(py_spy, what, rate=options.rate, native=options.native)
    sampled = in_the_loop(raw)
    stacks = Counter({stack: n for stack, n in sampled.items() if stack[-1] != HANDS_OVER})
    handed_over = 1 - stacks.total() / (sampled.total() or 1)
    cost = alone.cpu / alone.jobs * 1e6
    tables = [by_lane(stacks, cost), by_function(stacks, cost), by_package(stacks, cost)]
    for table in tables:
        print(table.text())
    print(f"{handed_over:.0%} of the samples were in the write to the server and are left out.")
    if options.dry:
        return
    about["py-spy"] = version(py_spy)
    name = f"flame-{options.concurrency}"
    raw_figures = {"cpu_us_per_job": cost, "handed_over": handed_over, "drain": alone.rate}
    print(write_results(name, machine=about, tables=tables, raw=raw_figures))
    title = (
        f"Worker, {options.jobs:,} jobs at concurrency {options.concurrency}: {cost:.1f} µs each"
    )
    picture = RESULTS / f"{about['date'].split()[0]}-{name}.svg"
    picture.write_text(flame(stacks, title=title), encoding="utf-8")
    print(picture)


def arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--dsn", help="a superuser's URL; default: an embedded server")
    parser.add_argument("--jobs", type=int, default=60_000)
    parser.add_argument("--concurrency", type=int, default=32)
    parser.add_argument("--rate", type=int, default=400, help="samples a second")
    parser.add_argument("--native", action="store_true", help="compiled extensions too")
    parser.add_argument("--dry", action="store_true", help="write no files of results")
    return parser.parse_args()


def watched(py_spy: str, what: Drain, *, rate: int, native: bool) -> str:
    """Run a drain under py-spy and return its stacks, one a line, with how often each was seen."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "stacks"
        flags = ["--format", "raw", "--rate", str(rate), "--output", str(out)]
        flags += ["--native"] if native else []
        done = subprocess.run(
            [py_spy, "record", *flags, "--", *command(what)],
            cwd=ROOT,
            env=environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode != 0 or not out.exists():
            sys.exit(f"py-spy failed (it needs ptrace of its own child): {done.stderr}")
        return out.read_text(encoding="utf-8")


def version(py_spy: str) -> str:
    """Return py-spy's version."""
    done = subprocess.run([py_spy, "--version"], check=True, capture_output=True, text=True)
    return done.stdout.split()[-1]


def in_the_loop(raw: str) -> Counter[tuple[str, ...]]:
    """Return what ran in the event loop, from what the loop called on: no imports, no start."""
    stacks: Counter[tuple[str, ...]] = Counter()
    for line in raw.splitlines():
        frames, _, samples = line.rpartition(" ")
        stack = [tidy(frame) for frame in frames.split(";")]
        at = max(
            (n for n, name in enumerate(stack) if name.split(" (")[0].endswith(LOOP)), default=-1
        )
        if at >= 0:
            stacks[tuple(stack[at:])] += int(samples)
    return stacks


def tidy(frame: str) -> str:
    """Return a frame without its line and without folders of this machine."""
    match = FRAME.fullmatch(frame)
    if match is None:
        return frame
    return f"{match['function']} ({OUTER.sub('', match['file'])})"


def by_lane(stacks: Counter[tuple[str, ...]], cost: float) -> Table:
    """Return which lane the time was spent for."""
    seen: Counter[str] = Counter()
    for stack, samples in stacks.items():
        lanes = [match[1] for frame in stack if (match := LANE.search(frame))]
        seen[lanes[-1] if lanes else "(the loop, and what it calls)"] += samples
    return shares("CPU time by lane", "lane", seen, cost)


def by_function(stacks: Counter[tuple[str, ...]], cost: float) -> Table:
    """Return the functions in which the time was spent, without what they called."""
    seen: Counter[str] = Counter()
    for stack, samples in stacks.items():
        seen[stack[-1]] += samples
    return shares("CPU time by function, itself", "function", seen, cost)


def by_package(stacks: Counter[tuple[str, ...]], cost: float) -> Table:
    """Return the packages whose code ran."""
    seen: Counter[str] = Counter()
    for stack, samples in stacks.items():
        file = stack[-1].rpartition("(")[2].rstrip(")")
        seen[file.split("/")[0] if "/" in file else "others"] += samples
    return shares("CPU time by package, itself", "package", seen, cost)


def shares(title: str, column: str, seen: Counter[str], cost: float) -> Table:
    """Return the greatest as a table."""
    whole = seen.total() or 1
    return Table(
        title=title,
        columns=[column, "share", "us/job"],
        rows=[
            [name, f"{samples / whole:.1%}", f"{samples / whole * cost:.2f}"]
            for name, samples in seen.most_common(LINES)
        ],
        note=f"{whole:,} samples of {cost:.1f} us/job.",
    )


if __name__ == "__main__":
    main()
