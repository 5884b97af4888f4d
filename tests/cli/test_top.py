"""`roost top` on a real terminal: its keys change the database, and it leaves no trace."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict
from rich.cells import cell_len
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

from roost import JobInsert

if TYPE_CHECKING:
    from tests.cli.conftest import RunsCommand, StartsRoost

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a Unix terminal")
if sys.platform != "win32":
    from tests.support.screen import Screen

ENTERED, LEFT = "\x1b[?1049h", "\x1b[?1049l"
CURSOR_HIDDEN, CURSOR_SHOWN = "\x1b[?25l", "\x1b[?25h"

Opens = Callable[..., "Screen"]


@pytest.fixture
def opens(dsn: str) -> Iterator[Opens]:
    """Return a function that runs `roost top` on a terminal; it ends with the test."""
    with ExitStack() as opened:

        def open_screen(*, dsn: str = dsn, size: tuple[int, int] = (80, 24)) -> Screen:
            screen = Screen("top", "--interval", "0.2", env={"ROOST_DSN": dsn}, size=size)
            return opened.enter_context(screen)

        yield open_screen


def is_as_before(screen: Screen) -> bool:
    """Whether the terminal is as the command found it."""
    written = screen.written
    return (
        written.count(ENTERED) == written.count(LEFT)
        and written.rfind(CURSOR_SHOWN) > written.rfind(CURSOR_HIDDEN)
        and screen.modes_now() == screen.modes
    )


def test_keys_pause_and_resume_a_queue(opens: Opens, table: JobTable) -> None:
    table.add(queue="mail")
    screen = opens()
    screen.wait_for("mail")
    screen.press("p")
    screen.wait_for("pause queue mail? y or n")
    screen.press("y")
    screen.wait_for("paused queue mail")
    assert table.value("select paused_at is not null from roost.queues where name = 'mail'")
    screen.press("p")
    screen.wait_for("resume queue mail? y or n")
    screen.press("y")
    screen.wait_for("resumed queue mail")
    screen.press("q")
    assert screen.ends() == 0
    assert is_as_before(screen)
    assert not table.rows("select from roost.queues where paused_at is not null")


def test_keys_cancel_and_retry_the_selected_job(opens: Opens, table: JobTable) -> None:
    worker = table.add_worker()
    first, second = table.add_all([JobInsert("work")] * 2)
    table.claim(worker)
    failed = table.add("broken", queue="other")
    table.change(
        failed,
        """
        state = 'discarded', discarded_at = now(), attempt = 1, errors =
            '[{"attempt": 1, "at": "2026-06-01T12:00:00+00:00", "error": "ValueError: no"}]'
        """,
    )
    screen = opens()
    screen.wait_for("RUNNING (2)")
    screen.press("\t\x1b[B")  # to the running jobs, one down
    screen.press("c")
    question = screen.wait_for("? y or n")
    chosen = first if f"cancel job {first}?" in question else second
    screen.press("y")
    screen.wait_for(f"cancelling job {chosen}")
    assert table.column(chosen, "cancel_requested")
    assert not table.column(first + second - chosen, "cancel_requested")
    screen.press("\x1b[C")
    screen.wait_for("ValueError: no")
    screen.press("r")
    screen.wait_for(f"retry job {failed}? y or n")
    screen.press("y")
    screen.wait_for(f"job {failed} is available again")
    assert table.column(failed, "state") == "available"


@pytest.mark.parametrize(
    ("end", "code"),
    [
        (signal.SIGTERM, -signal.SIGTERM),
        (signal.SIGHUP, -signal.SIGHUP),
        (signal.SIGQUIT, -signal.SIGQUIT),
        (signal.SIGINT, 0),
    ],
)
def test_a_signal_leaves_the_terminal_as_it_was(
    opens: Opens, end: signal.Signals, code: int
) -> None:
    screen = opens()
    screen.wait_for("QUEUES (")
    if end is signal.SIGINT:
        screen.press("\x03")
    elif end is signal.SIGQUIT:
        screen.press("\x1c")
    else:
        screen.process.send_signal(end)
    assert screen.ends() == code
    assert is_as_before(screen)


def test_a_closed_terminal_ends_it(opens: Opens) -> None:
    screen = opens()
    screen.wait_for("QUEUES (")
    screen.hang_up()
    assert screen.ends() == -signal.SIGHUP


def test_an_error_leaves_the_terminal_as_it_was(dsn: str) -> None:
    program = (
        "import sys; from roost.cli.top import command; command.draw = None; "
        "from roost.cli import main; sys.argv = ['roost', 'top']; main()"
    )
    with Screen("--", env={"ROOST_DSN": dsn}, size=(80, 24), program=program) as screen:
        assert screen.ends() == 1
        until(lambda: "TypeError" in screen.written)
        assert is_as_before(screen)
        assert screen.written.index(LEFT) < screen.written.index("TypeError")


BREAKS_LATER = """
import sys
from roost.cli import main
from roost.cli.top import reader

def read_snapshot(client, read=reader.read_snapshot):
    reader.read_snapshot = None
    return read(client)

reader.read_snapshot = read_snapshot
sys.argv = ["roost", "top", "--interval", "0.2"]
main()
"""


def test_an_error_of_the_thread_that_reads_ends_it_with_one_line(dsn: str) -> None:
    with Screen(env={"ROOST_DSN": dsn}, size=(80, 24), program=BREAKS_LATER) as screen:
        assert screen.ends() == 1
        message = "roost: the view can't go on: TypeError: 'NoneType' object is not callable"
        until(lambda: message in screen.written)
        assert is_as_before(screen)
        assert screen.written.index(LEFT) < screen.written.index(message)
        assert "Traceback" not in screen.written


@pytest.mark.parametrize("columns", ["abc", "", "0", "-3"])
def test_a_width_that_is_no_number_is_not_used(
    columns: str, dsn: str, run_command: RunsCommand
) -> None:
    done = run_command("top", "--once", COLUMNS=columns, ROOST_DSN=dsn)
    assert (done.code, done.err) == (0, "")
    assert max(map(cell_len, done.out.splitlines())) <= 80


SHELL = """
import os, signal, sys

signal.signal(signal.SIGTTOU, signal.SIG_IGN)
child = os.fork()
if not child:
    os.setpgid(0, 0)
    os.tcsetpgrp(0, os.getpid())
    signal.signal(signal.SIGTTOU, signal.SIG_DFL)
    os.execv(sys.executable, [sys.executable, "-m", "roost", "top", "--interval", "0.2"])
while True:
    status = os.waitpid(child, os.WUNTRACED)[1]
    if not os.WIFSTOPPED(status):
        sys.exit(os.waitstatus_to_exitcode(status))
    os.tcsetpgrp(0, os.getpid())
    print("stopped by", os.WSTOPSIG(status), flush=True)
    sys.stdin.readline()
    os.tcsetpgrp(0, child)
    os.kill(child, signal.SIGCONT)
"""
"""What a shell does with a program that is stopped: Enter continues it, as ``fg`` does."""


def test_ctrl_z_gives_the_terminal_back_until_it_is_continued(dsn: str) -> None:
    with Screen(env={"ROOST_DSN": dsn}, size=(80, 24), program=SHELL) as screen:
        screen.wait_for("QUEUES (")
        screen.press("\x1a")
        until(lambda: f"stopped by {signal.SIGTSTP:d}" in screen.written)
        assert is_as_before(screen)
        screen.press("\n")
        until(lambda: screen.written.count(ENTERED) == 2)
        screen.wait_for("QUEUES (")
        screen.press("q")
        assert screen.ends() == 0
        assert is_as_before(screen)


def test_a_new_size_is_followed(opens: Opens, table: JobTable) -> None:
    table.add_all([JobInsert("work", queue=f"queue {n}") for n in range(40)])
    screen = opens(size=(120, 40))
    screen.wait(lambda frame: len(frame.splitlines()) >= 39, "high frame")
    screen.resize(60, 12)
    frame = screen.wait(
        lambda frame: len(frame.splitlines()) == 12 and "q quit" in frame, "low frame"
    )
    assert max(map(cell_len, frame.splitlines())) <= 60


def test_a_restart_of_the_database_is_survived(opens: Opens, restartable_server: Any) -> None:
    screen = opens(dsn=restartable_server.dsn)
    screen.wait_for("QUEUES (")
    restartable_server.stop("immediate")
    screen.wait_for("cut off since")
    assert "QUEUES (" in "\n".join(screen.frame())
    restartable_server.start()
    with psycopg.connect(restartable_server.dsn, autocommit=True) as connection:
        connection.execute("insert into roost.jobs (task, queue) values ('work', 'after')")
    frame = screen.wait(lambda frame: "after" in frame, "new reading")
    assert "cut off" not in frame
    screen.press("q")
    assert screen.ends() == 0


def test_quitting_does_not_wait_for_a_database_that_is_away(
    opens: Opens, restartable_server: Any
) -> None:
    screen = opens(dsn=restartable_server.dsn)
    screen.wait_for("QUEUES (")
    os.kill(restartable_server.pid(), signal.SIGSTOP)
    try:
        began = time.monotonic()
        screen.press("q")
        assert screen.ends() == 0
        assert time.monotonic() - began < 20  # a call waits for 30 s
    finally:
        os.kill(restartable_server.pid(), signal.SIGCONT)


def test_without_a_terminal_it_says_what_to_do(dsn: str, roost_command: StartsRoost) -> None:
    done = roost_command("top", ROOST_DSN=dsn)
    assert done.ends() == 2
    assert done.output == (
        "roost: the live view needs a Unix terminal; pass --once for one frame, or --json\n"
    )


@pytest.mark.parametrize("seconds", ["0.1", "nan", "inf", "-1"])
def test_an_interval_that_is_none_is_a_wrong_call(
    dsn: str, roost_command: StartsRoost, seconds: str
) -> None:
    done = roost_command("top", "--once", "--interval", seconds, ROOST_DSN=dsn)
    assert done.ends() == 2
    assert done.output.startswith("roost: --interval must be from 0.2 to 3600 seconds, not ")


@pytest.mark.parametrize("password", ["se[cret", "se\u2100cret", "se#cret", "se?cret"])
def test_the_title_shows_no_password(dsn: str, roost_command: StartsRoost, password: str) -> None:
    parts = conninfo_to_dict(dsn)
    own = ("user", "password")
    rest = "&".join(f"{key}={value}" for key, value in parts.items() if key not in own)
    given = f"postgresql://{parts['user']}:{password}@/?{rest}"
    run = roost_command("top", "--once", ROOST_DSN=given)
    assert run.ends() == 0, run.output
    assert "cret" not in run.output


def test_one_frame_for_a_script(dsn: str, table: JobTable, roost_command: StartsRoost) -> None:
    table.add_all([JobInsert("work", queue=f"queue {n:02}") for n in range(30)])
    done = roost_command("top", "--once", ROOST_DSN=dsn, COLUMNS="80")
    assert done.ends() == 0
    lines = done.output.splitlines()
    assert "\x1b" not in done.output
    assert max(map(len, lines)) <= 80
    assert len([line for line in lines if line.startswith("queue ")]) == 30
    read = roost_command("top", "--json", ROOST_DSN=dsn)
    assert read.ends() == 0
    snapshot = json.loads(read.output)
    assert list(snapshot) == ["overview", "clock_ahead", "running", "failed"]
    assert len(snapshot["overview"]["queues"]) == 30


def test_the_longest_running_job_is_shown_among_hundreds(
    dsn: str, table: JobTable, roost_command: StartsRoost
) -> None:
    worker = table.add_worker()
    ids = table.add_all([JobInsert("work")] * 150)
    table.claim(worker, limit=150)
    assert table.states() == {"executing": 150}
    table.change(min(ids), "attempted_at = now() - interval '3 hours'")
    read = roost_command("top", "--json", ROOST_DSN=dsn)
    assert read.ends() == 0
    running = json.loads(read.output)["running"]
    assert len(running) == 100
    assert running[0]["id"] == min(ids)
