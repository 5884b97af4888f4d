"""The demo counts right on both loops, and notices when something does not."""

from __future__ import annotations

import re
import signal
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from tests.support.job_table import JobTable

from roost.cli.demo.check import find_faults
from roost.cli.demo.outcome import Outcome, Recount, Row, Times, recount
from roost.cli.demo.tasks import count
from roost.cli.demo.tree import find_tree
from roost.cli.demo.troubles import ORIGINAL, Troubles

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

BOTH = pytest.mark.parametrize("backend", ["asyncio", "trio"])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a small tree: two files in two folders, and a hidden one."""
    folder = tmp_path / "tree"
    (folder / "below").mkdir(parents=True)
    (folder / ".hidden").mkdir()
    (folder / "one.py").write_text("def f():\n    return 1\n\nclass C:\n    async def g(): ...\n")
    (folder / "below" / "two.txt").write_text("three words here\nand no definition")
    (folder / ".hidden" / "three.txt").write_text("not indexed")
    return folder


@BOTH
def test_it_indexes_this_project_on_an_embedded_postgres(
    backend: str, tmp_path: Path, roost_command: StartsRoost
) -> None:
    demo = roost_command("demo", "--backend", backend)
    assert demo.ends() == 0, demo.output
    assert "All counts are right" in demo.output
    assert "\x1b" not in demo.output
    assert re.search(r"^index +\d\d\d +\d\d\d +2 ", demo.output, re.MULTILINE)
    assert (tmp_path / ".roost" / "pg").is_dir()


@BOTH
def test_its_numbers_are_those_of_the_folder(
    backend: str, dsn: str, table: JobTable, folder: Path, roost_command: StartsRoost
) -> None:
    mine = table.add("index", queue="mine")
    demo = roost_command("demo", "--backend", backend, "--path", str(folder), "--dsn", dsn)
    assert demo.ends() == 0, demo.output
    own = ORIGINAL.read_text()
    lines, words = 5 + 2 + own.count("\n"), 10 + 6 + len(own.split())
    definitions = 3 + len(re.findall(r"^ *(?:class|def) ", own, re.MULTILINE))
    size = sum((folder / name).stat().st_size for name in ("one.py", "below/two.txt"))
    assert (
        f"Indexed: 3 files, {lines:,} lines, {words:,} words, {definitions:,} definitions, "
        f"{size} bytes."
    ) in demo.output
    assert table.rows("select id from roost.jobs") == [(mine,)], "only the demo's jobs are gone"


@pytest.mark.parametrize(
    ("lie", "fault"),
    [
        ("new.result = jsonb_set(new.result, '{lines}', '1000000')", "counted {'lines': 1000000"),
        ("new.attempt = new.attempt + 1", "attempts differ"),
        ("new.state = 'discarded'", "is discarded at attempt"),
    ],
)
def test_it_fails_when_the_database_keeps_something_else(
    lie: str, fault: str, dsn: str, table: JobTable, folder: Path, roost_command: StartsRoost
) -> None:
    table.script(
        f"""
        create function lie() returns trigger language plpgsql as $$ begin
            if new.state = 'completed' and new.args->>'path' like '%two.txt' then {lie}; end if;
            return new;
        end $$;
        create trigger lie before update on roost.jobs for each row execute function lie();
        """
    )
    demo = roost_command("demo", "--path", str(folder), "--dsn", dsn)
    assert demo.ends() == 1
    assert fault in demo.output
    assert "roost: the demo failed" in demo.output
    assert "All counts are right" not in demo.output


def test_it_fails_when_a_rolled_back_job_is_there(
    dsn: str, table: JobTable, folder: Path, roost_command: StartsRoost
) -> None:
    # One of the demo's jobs gets the id that was rolled back.
    first = table.value("select nextval('roost.jobs_id_seq')") + 1
    table.script(
        f"""
        create function again() returns trigger language plpgsql as $$ begin
            if new.args->>'path' like '%utf16.txt' then new.id = {first}; end if;
            return new;
        end $$;
        create trigger again before insert on roost.jobs
            for each row execute function again();
        """
    )
    demo = roost_command("demo", "--path", str(folder), "--dsn", dsn)
    assert demo.ends() == 1
    assert f"job {first} exists, though its transaction was rolled back" in demo.output


def test_a_signal_ends_it_and_nothing_is_left(
    dsn: str, table: JobTable, folder: Path, roost_command: StartsRoost
) -> None:
    # A file that can't be claimed keeps the demo from its end.
    table.script(
        """
        create function never() returns trigger language plpgsql as $$ begin
            new.scheduled_at = now() + interval '1 hour';
            return new;
        end $$;
        create trigger never before insert on roost.jobs for each row
            when (new.args->>'path' like '%two.txt') execute function never();
        """
    )
    demo = roost_command("demo", "--path", str(folder), "--dsn", dsn)
    demo.wait_for("jobs have ended")
    demo.signal(signal.SIGINT)
    assert demo.ends() == 130
    assert table.states() == {}
    assert table.workers() == []


def test_a_folder_that_is_not_there_is_a_wrong_call(roost_command: StartsRoost) -> None:
    demo = roost_command("demo", "--path", "/nowhere")
    assert demo.ends() == 2
    assert "/nowhere is not a folder" in demo.output


# The check itself, on counts that are right but for one.


@pytest.fixture
def played(folder: Path) -> tuple[Outcome, Recount, Troubles]:
    """Return what a faultless run of the demo would leave behind."""
    tree = find_tree(folder)
    late = folder.parent / "late.py"
    late.write_bytes(ORIGINAL.read_bytes())
    troubles = Troubles(cut_off=Path("cut_off.py"), utf16=Path("utf16.txt"), late=late)
    counted = recount(tree, late=str(late))
    rows: list[Row] = []

    def add(task: str, args: dict[str, Any], result: Any, **changes: Any) -> None:
        row = Row(len(rows) + 2, task, args, "completed", 1, 3, None, result)
        rows.append(attrs.evolve(row, **changes))

    for path in counted.files:
        attempt = 2 if path == str(late) else 1
        counts = count(path, Path(path).read_bytes())
        add("index", {"path": path}, counts, attempt=attempt, max_attempts=100)
    for paths, result in counted.folders.items():
        add("fingerprint", {"paths": list(paths)}, result)
    for trouble in (troubles.cut_off, troubles.utf16):
        failed = {"state": "discarded", "attempt": 3, "errors": [{}, {}, {}]}
        add("index", {"path": str(trouble)}, None, **failed)
    files = [row.result or {} for row in rows if row.task == "index" and row.result]
    totals = {name: sum(r[name] for r in files) for name in ("lines", "words", "definitions")}
    size = sum((row.result or {})["bytes"] for row in rows if row.task == "fingerprint")
    add("summary", {}, {"files": len(files), **totals, "bytes": size})
    calls: Counter[str] = Counter()
    for row in rows:
        calls[row.task] += row.attempt
    times = Times(1.0, 1, 1.0, 0.1, 0.1)
    outcome = Outcome(rows=tuple(rows), times=times, server="18", rolled_back=1, calls=calls)
    return outcome, counted, troubles


def test_right_counts_have_no_fault(played: tuple[Outcome, Recount, Troubles]) -> None:
    assert find_faults(*played) == []


def test_every_wrong_count_is_a_fault(played: tuple[Outcome, Recount, Troubles]) -> None:
    outcome, counted, troubles = played
    for place, row in enumerate(outcome.rows):
        wrong = [attrs.evolve(row, state="cancelled"), attrs.evolve(row, attempt=row.attempt + 1)]
        for name, value in (row.result or {}).items():
            other = value + 1 if isinstance(value, int) else value[::-1]
            wrong.append(attrs.evolve(row, result={**(row.result or {}), name: other}))
        for changed in wrong:
            rows = (*outcome.rows[:place], changed, *outcome.rows[place + 1 :])
            assert find_faults(attrs.evolve(outcome, rows=rows), counted, troubles), changed
        without = (*outcome.rows[:place], *outcome.rows[place + 1 :])
        assert find_faults(attrs.evolve(outcome, rows=without), counted, troubles), row
        twice = (*outcome.rows, attrs.evolve(row, id=1000))
        assert find_faults(attrs.evolve(outcome, rows=twice), counted, troubles), row
    for task in outcome.calls:
        calls = outcome.calls + Counter({task: 1})
        assert find_faults(attrs.evolve(outcome, calls=calls), counted, troubles), task


def test_a_file_that_changed_meanwhile_is_not_compared(
    played: tuple[Outcome, Recount, Troubles], folder: Path
) -> None:
    outcome, counted, troubles = played
    changed = str(folder / "one.py")
    assert counted.files[changed] is not None
    counted.files[changed] = {"lines": 0, "words": 0, "definitions": 0}
    assert find_faults(outcome, counted, troubles)
    assert not find_faults(outcome, attrs.evolve(counted, changed=frozenset([changed])), troubles)
