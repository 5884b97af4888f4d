"""`roost run --http` serves the worker's health from before its start until its end."""

from __future__ import annotations

import json
import re
import socket
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.support.conformance.cases import until
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import Roost, StartsRoost

LOOPS = [["--backend", "asyncio"], ["--backend", "trio"]]
SERVING = "serving HTTP on "


def address_of(run: Roost) -> str:
    """Return the URL that the command has logged."""
    run.wait_for(SERVING)
    found = re.search(rf"{SERVING}(http://[\d.:]+)", run.output)
    assert found is not None
    return found[1]


def text_of(url: str) -> str:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=20) as response:
        return str(response.read().decode())


def read(url: str) -> tuple[int, dict[str, Any]]:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=20) as response:
            return response.status, json.load(response)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("loop", LOOPS, ids=" ".join)
def test_health_is_served_until_the_last_job_has_ended(
    loop: list[str], dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    table.add("waits_for_file")
    run = roost_command(
        "run", "-m", "tasks", *loop, "--http", "127.0.0.1:0", "--listen-reconnect-delay", "0.1",
        ROOST_DSN=dsn,
    )  # fmt: skip
    url = address_of(run)
    run.wait_for("job has started")
    until(lambda: read(f"{url}/readyz")[0] == 200)
    assert read(f"{url}/readyz")[1]["running"] == 1
    assert "\nroost_worker_slots_used 1.0\n" in text_of(f"{url}/metrics")

    run.signal()
    run.wait_for("worker is stopping")
    status, body = read(f"{url}/readyz")
    assert (status, body["reasons"]) == (503, ["the worker is stopping"])
    assert read(f"{url}/livez")[0] == 200

    (tasks / "go").touch()
    assert run.ends() == 0, run.output
    assert table.states() == {"completed": 1}


def test_health_is_served_while_the_database_is_away(
    tasks: Path, roost_command: StartsRoost
) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nowhere:
        port = nowhere.getsockname()[1]
    run = roost_command(
        "run", "-m", "tasks", "--http", "127.0.0.1:0", "--startup-retry-delay", "0.1",
        ROOST_DSN=f"postgresql://127.0.0.1:{port}/none",
    )  # fmt: skip
    url = address_of(run)
    run.wait_for("database unavailable at start", times=2)

    status, body = read(f"{url}/readyz")
    assert (status, body["phase"]) == (503, "starting")
    assert read(f"{url}/livez")[0] == 200
    run.signal()
    assert run.ends() == 0


def test_a_port_in_use_ends_the_command_before_a_job_is_claimed(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("quick")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        run = roost_command("run", "-m", "tasks", "--http", address, ROOST_DSN=dsn)
        code = run.ends()

    assert code == 1
    last = run.output.splitlines()[-1]
    assert last == f"roost: can't serve HTTP on {address}: Address already in use"
    assert table.get(job_id).state == "available"


def test_a_wrong_address_is_a_wrong_call(tasks: Path, roost_command: StartsRoost) -> None:
    run = roost_command("run", "-m", "tasks", "--http", "localhost", ROOST_DSN="postgresql://")

    assert run.ends() == 2
    assert "must be HOST:PORT" in run.output
    assert run.output.splitlines()[-1].startswith("roost: ")


def test_each_process_needs_a_port(tasks: Path, roost_command: StartsRoost) -> None:
    run = roost_command(
        "run", "-m", "tasks", "--workers", "3", "--http", ":65534", ROOST_DSN="host=none"
    )
    assert run.ends() == 2
    assert run.output == (
        "roost: --http :65534 with --workers 3 needs 3 ports, and the highest is 65535: choose a "
        "port of at most 65533\n"
    )


def test_a_port_in_use_of_the_second_process_ends_the_command(
    dsn: str, table: JobTable, tasks: Path, roost_command: StartsRoost
) -> None:
    job_id = table.add("quick")
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        run = roost_command(
            "run", "-m", "tasks", "--workers", "2", "--http", f"127.0.0.1:{port - 1}",
            ROOST_DSN=dsn,
        )  # fmt: skip
        code = run.ends()

    assert code == 1
    assert run.output == f"roost: can't serve HTTP on 127.0.0.1:{port}: Address already in use\n"
    assert table.get(job_id).state == "available"
