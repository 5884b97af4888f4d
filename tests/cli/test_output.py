"""What commands print: tables that fit, lines that a terminal can't misread, plain JSON."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from typing import TYPE_CHECKING

import attrs
import pytest
import typer
from rich.cells import cell_len
from tests.support.job_table import JobTable
from typer.testing import CliRunner

from roost import InvalidSettingError, Job, JobState
from roost.cli import app as app_module
from roost.cli import output

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

NOON = datetime(2026, 6, 1, 14, 0, 0, 5, tzinfo=timezone(timedelta(hours=2)))


@dataclass
class Row:
    name: str
    count: int | None


@attrs.frozen
class Pair:
    at: datetime
    state: JobState


COLUMNS: output.Columns[Row] = {"NAME": lambda row: row.name, "COUNT": lambda row: row.count}


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (NOON, "2026-06-01T12:00:00.000005Z"),
        (timedelta(minutes=1), 60.0),
        (JobState.COMPLETED, "completed"),
        ((1, "a", None, True), [1, "a", None, True]),
        ({"b", "a"}, ["a", "b"]),
        ({JobState.COMPLETED: NOON}, {"completed": "2026-06-01T12:00:00.000005Z"}),
        (Row("a", None), {"name": "a", "count": None}),
        (
            Pair(NOON, JobState.RETRYABLE),
            {"at": "2026-06-01T12:00:00.000005Z", "state": "retryable"},
        ),
    ],
)
def test_json_has_plain_values_only(value: object, plain: object) -> None:
    assert output.as_plain(value) == plain
    json.dumps(plain)


def test_json_has_all_fields_of_a_job() -> None:
    assert list(output.as_plain(Job(id=1, task="send"))) == list(Job.model_fields)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        ("", "-"),
        ([], "-"),
        (True, "yes"),
        (NOON, "2026-06-01T12:00:00Z"),
        (["a", "b"], "a,b"),
        ({"user": "Zoë"}, '{"user": "Zoë"}'),
        ("two\nlines", r"two\nlines"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202egnp", r"\u202egnp"),
        (JobState.DISCARDED, "discarded"),
    ],
)
def test_a_cell_is_one_printable_line(value: object, text: str) -> None:
    assert output.cell(value) == text


def test_columns_are_aligned_and_numbers_to_the_right() -> None:
    rows = [["mail", 7, NOON], ["longer name", 1000, None]]
    assert output.table(["QUEUE", "JOBS", "SINCE"], rows, width=None).splitlines() == [
        "QUEUE        JOBS  SINCE",
        "mail            7  2026-06-01T12:00:00Z",
        "longer name  1000  -",
    ]


def test_long_text_is_shortened_until_a_line_fits() -> None:
    rows = [["q" * 60, 123_456_789_012, NOON, "e" * 60], ["日本語" * 20, 1, None, "short"]]
    lines = output.table(["QUEUE", "ID", "AT", "ERROR"], rows, width=80).splitlines()
    assert all(cell_len(line) <= 80 for line in lines)
    assert "123456789012" in lines[1]
    assert "2026-06-01T12:00:00Z" in lines[1]
    assert lines[1].count("…") == 2
    assert lines[2].startswith("日本語")


def test_a_terminal_that_is_too_narrow_gets_long_lines() -> None:
    lines = output.table(["QUEUE", "AT"], [["q" * 60, NOON]], width=10).splitlines()
    assert lines[1] == "qqqqqqq…  2026-06-01T12:00:00Z"


def test_rows_are_a_table_or_an_array(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [Row("a", 1)]
    output.show(rows, COLUMNS, as_json=False, empty="none")
    assert capsys.readouterr().out == "NAME  COUNT\na         1\n"
    output.show(rows, COLUMNS, as_json=True, empty="none")
    assert json.loads(capsys.readouterr().out) == [{"name": "a", "count": 1}]
    output.show([], COLUMNS, as_json=False, empty="none")
    assert capsys.readouterr().out == "none\n"
    output.show([], COLUMNS, as_json=True, empty="none")
    assert json.loads(capsys.readouterr().out) == []


def test_one_thing_is_a_line_for_each_field(capsys: pytest.CaptureFixture[str]) -> None:
    fields = {"name": "a", "count": None, "trace": "one\n\x1btwo"}
    output.show_fields(fields, value=Row("a", None), as_json=False)
    assert capsys.readouterr().out == "name   a\ncount  -\ntrace\n    one\n    \\x1btwo\n"
    output.show_fields(fields, value=Row("a", None), as_json=True)
    assert json.loads(capsys.readouterr().out) == {"name": "a", "count": None}


def test_without_a_terminal_a_line_of_the_input_is_the_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO("y\nn\n"))
    output.confirm("Delete 3 jobs?", yes=True)
    output.confirm("Delete 3 jobs?", yes=False)
    with pytest.raises(typer.Abort):
        output.confirm("Delete 3 jobs?", yes=False)
    with pytest.raises(InvalidSettingError, match=r"Delete 3 jobs\? No terminal .*--yes"):
        output.confirm("Delete 3 jobs?", yes=False)


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_the_answer_on_a_terminal_decides(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal("y\nn\n"))
    output.confirm("Delete 3 jobs?", yes=False)
    with pytest.raises(typer.Abort):
        output.confirm("Delete 3 jobs?", yes=False)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing"], "No such command 'nothing'. See `roost --help`"),
        (["run", "--nothing"], "No such option: --nothing. See `roost run --help`"),
        (["run"], "Missing option '--module' / '-m'. See `roost run --help`"),
        (["cron", "pause"], "Missing argument 'name'. See `roost cron pause --help`"),
        (
            ["cron", "list"],
            (
                "no database is given: use --dsn, set ROOST_DSN or DATABASE_URL, or set dsn in "
                "[tool.roost] of pyproject.toml"
            ),
        ),
    ],
)
def test_a_wrong_call_is_one_line(
    arguments: list[str], message: str, roost_command: StartsRoost
) -> None:
    done = roost_command(*arguments)
    assert done.ends() == 2
    assert done.output.startswith(f"roost: {message}")
    assert done.output.count("\n") == 1


def raises(error: BaseException | None) -> Callable[..., None]:
    def command(**_: object) -> None:
        if error is not None:
            raise error

    return command


def aborted_by(error: BaseException) -> typer.Abort:
    abort = typer.Abort()
    abort.__cause__ = error
    return abort


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (None, 0),
        (KeyboardInterrupt(), 130),
        (aborted_by(KeyboardInterrupt()), 130),
        (aborted_by(EOFError()), 1),
        (InvalidSettingError("wrong"), 2),
        (typer.BadParameter("wrong"), 2),
    ],
)
def test_the_exit_code_says_what_happened(
    error: BaseException | None, code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "app", raises(error))
    with pytest.raises(SystemExit) as stop:
        app_module.main()
    assert stop.value.code == code


def test_a_closed_pipe_is_no_traceback(tmp_path: object) -> None:
    command = f"{sys.executable} -W error -m roost migrate sql | head -1"
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=True, timeout=60
    )
    assert (done.stdout.count("\n"), done.stderr) == (1, "")


@pytest.mark.parametrize(
    ("streams", "code", "out", "error"),
    [
        ("<&-", 2, "", "roost: Delete 1 job? No terminal can answer: pass --yes\n"),
        ("--yes <&- >&-", 0, "", ""),
        ("--yes 2>&-", 0, "deleted 1 job\n", ""),
        ("--limit 0 2>&-", 2, "", ""),
        ("--help > /dev/full", 1, "", "roost: can't write: No space left on device\n"),
    ],
)
def test_a_closed_or_full_stream_is_no_traceback(
    streams: str, code: int, out: str, error: str, dsn: str, table: JobTable
) -> None:
    table.add("mail")
    command = f"{sys.executable} -W error -m roost jobs delete --task mail {streams}"
    env = os.environ | {"ROOST_DSN": dsn}
    done = subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, check=False, timeout=60, env=env
    )
    assert (done.returncode, done.stdout, done.stderr) == (code, out, error)
    assert table.states() == ({} if code == 0 else {"available": 1})


def test_a_sign_that_the_output_can_not_show_is_escaped(
    dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    table.add("日本")
    done = roost_command("jobs", "list", ROOST_DSN=dsn, PYTHONIOENCODING="latin-1")
    assert done.ends() == 0, done.output
    assert r"\u65e5\u672c" in done.output


def test_the_versions_are_printed_without_a_database() -> None:
    done = CliRunner().invoke(app_module.app, ["--version"])
    assert done.exit_code == 0
    lines = dict(line.split(" ", 1) for line in done.output.splitlines())
    assert next(iter(lines)) == "roost"
    assert lines["CPython"] == sys.version.split()[0]
    assert lines["psycopg"].startswith("3.")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_a_shell_completes_commands(shell: str, roost_command: StartsRoost) -> None:
    done = roost_command(
        _ROOST_COMPLETE=f"complete_{shell}",
        COMP_WORDS="roost migr",
        COMP_CWORD="1",
        _TYPER_COMPLETE_ARGS="roost migr",
        _TYPER_COMPLETE_FISH_ACTION="get-args",
    )
    assert done.ends() == 0
    assert "migrate" in done.output
