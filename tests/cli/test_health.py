"""`roost health` says by its exit code whether a worker is healthy, and why not."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import pytest
from tests.support.job_table import JobTable

if TYPE_CHECKING:
    from tests.cli.conftest import StartsRoost

Says = Callable[..., str]
HOST = socket.gethostname()


@pytest.fixture
def says(dsn: str, roost_command: StartsRoost) -> Says:
    """Return a function that runs `roost health` and returns its output."""

    def run(*arguments: str, code: int = 0, dsn: str = dsn, proxy: str = "") -> str:
        done = roost_command(
            "health", *arguments, ROOST_DSN=dsn, http_proxy=proxy, HTTP_PROXY=proxy
        )
        assert done.ends() == code, done.output
        return done.output

    return run


class Handler(BaseHTTPRequestHandler):
    """Answers as a worker's server does; the path chooses how."""

    def do_GET(self) -> None:
        status, body = {
            "/readyz": (503, b'{"live": true, "reasons": ["the worker is stopping", "and tired"]}'),
            "/livez": (200, b'{"live": true, "reasons": []}'),
            "/list": (200, b"[1, 2]"),
            "/text": (500, b"Internal Server Error"),
            "/odd": (503, b'{"reasons": 7}'),
        }.get(self.path, (404, b""))
        self.send_response(status)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Print nothing."""


@pytest.fixture
def url() -> Iterator[str]:
    """Yield the URL of a server."""
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def test_a_server_that_answers_200_is_healthy(says: Says, url: str) -> None:
    assert says("--url", f"{url}/livez") == "healthy\n"
    assert says("--url", f"{url}/list") == "healthy\n"


@pytest.mark.parametrize("seconds", ["inf", "1e12"])
def test_any_timeout_can_be_given(says: Says, url: str, seconds: str) -> None:
    assert says("--url", f"{url}/livez", "--timeout", seconds) == "healthy\n"


def test_the_reasons_of_the_server_are_printed(says: Says, url: str) -> None:
    expected = "not healthy: the worker is stopping; and tired\n"
    assert says("--url", url, code=1) == expected
    assert says("--url", f"{url}/readyz", code=1) == expected


@pytest.mark.parametrize(("path", "status"), [("text", 500), ("odd", 503), ("other", 404)])
def test_another_answer_is_not_healthy(says: Says, url: str, path: str, status: int) -> None:
    address = f"{url}/{path}"
    assert says("--url", address, code=1) == f"not healthy: {address} answers {status}\n"


def test_a_program_reads_the_answer(says: Says, url: str) -> None:
    found = json.loads(says("--url", url, "--json", code=1))
    assert found == {
        "healthy": False,
        "reasons": ["the worker is stopping", "and tired"],
        "answer": {"live": True, "reasons": ["the worker is stopping", "and tired"]},
        "workers": None,
    }


def test_proxies_of_the_environment_are_not_used(says: Says, url: str) -> None:
    assert says("--url", f"{url}/livez", proxy="http://127.0.0.1:9") == "healthy\n"


def test_no_server_is_not_healthy(says: Says) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nowhere:
        port = nowhere.getsockname()[1]
    output = says("--url", f"http://127.0.0.1:{port}/livez", code=1)
    assert output.startswith(f"not healthy: no answer from http://127.0.0.1:{port}/livez: ")
    assert output.count("\n") == 1


def test_a_server_that_does_not_answer_is_given_up(says: Says) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as silent:
        port = silent.getsockname()[1]
        output = says("--url", f"http://127.0.0.1:{port}", "--timeout", "0.2", code=1)
    assert "timed out" in output


@pytest.mark.parametrize(
    "wrong", ["127.0.0.1:8080", "ftp://host/", "http://", "http://[::1", "http://host:port/", ""]
)
def test_a_url_that_cannot_be_read_is_a_wrong_call(says: Says, wrong: str) -> None:
    output = says("--url", wrong, code=2)
    assert output == f"roost: --url must be like http://127.0.0.1:8080/livez, not {wrong!r}\n"


@pytest.mark.parametrize("option", ["--timeout", "--max-age"])
def test_seconds_that_are_none_are_a_wrong_call(says: Says, option: str) -> None:
    assert "must be seconds > 0" in says(option, "0", code=2)


def add_worker(table: JobTable, *, host: str, age: float) -> None:
    table.rows(
        "insert into roost.workers (name, host, queues, concurrency, expires_at, heartbeat_at) "
        "values ($1::text || ':7', $1::text, '{default}', 1, now(), "
        "now() - make_interval(secs => $2::double precision))",
        host,
        age,
    )


def test_the_database_knows_the_workers_of_this_host(says: Says, table: JobTable) -> None:
    add_worker(table, host="elsewhere", age=1)
    assert says(code=1) == f"not healthy: no worker of this host, {HOST}, is registered\n"
    add_worker(table, host=HOST, age=100)
    expected = f"not healthy: the last heartbeat of a worker of this host, {HOST}, is "
    assert says(code=1).startswith(expected)
    assert says("--max-age", "1000") == "healthy\n"
    add_worker(table, host=HOST, age=1)
    found = json.loads(says("--json"))
    assert (found["healthy"], found["answer"]) == (True, None)
    assert [worker["name"] for worker in found["workers"]] == [f"{HOST}:7"] * 2


def test_a_database_that_is_away_is_not_healthy(says: Says) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as nowhere:
        port = nowhere.getsockname()[1]
    output = says(code=1, dsn=f"postgresql://127.0.0.1:{port}/none")
    assert output.startswith("not healthy: the database can't be asked: ")
    assert output.count("\n") == 1
