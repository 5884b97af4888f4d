"""``roost health``: ask a worker's HTTP server, or the database, whether a worker works."""

from __future__ import annotations

import http.client
import json
import socket
from typing import Annotated, Any
from urllib.parse import urlsplit

import attrs
import typer

from roost import InvalidSettingError
from roost._drivers import psycopg_sync
from roost._drivers.base import run_sync
from roost._model.durations import duration
from roost._ops.workers import HostWorker, workers_of_host
from roost.cli.options import Dsn, resolve_dsn
from roost.cli.output import AsJson, cell, examples, print_json
from roost.exceptions import DatabaseError

DEFAULT_PATH = "/readyz"
MAX_TIMEOUT = 86_400.0
"""Seconds; a socket takes no infinite timeout."""
MAX_BODY = 65_536
"""Bytes of an answer that are read."""

EPILOG = examples(
    "roost health --url http://127.0.0.1:8080/livez",
    "roost health --max-age 120 --json",
)


@attrs.frozen
class Health:
    """What the command has found.

    :param reasons: why it is not healthy.
    :param answer: what the worker's server has answered; ``None``: it was not asked, or its answer
        is no JSON object.
    :param workers: those of this host, by the database; ``None``: it was not asked.
    """

    healthy: bool
    reasons: list[str]
    answer: dict[str, Any] | None = None
    workers: list[HostWorker] | None = None


def health(
    *,
    url: Annotated[
        str | None,
        typer.Option(
            help="The server of `roost run --http`, such as http://127.0.0.1:8080/livez. Without a "
            "path: /readyz. Default: ask the database for a worker of this host.",
            show_default=False,
        ),
    ] = None,
    timeout: Annotated[
        float, typer.Option(help="Seconds to wait for each answer of that server, > 0.")
    ] = 5.0,
    max_age: Annotated[
        float,
        typer.Option(
            help="Without --url: seconds since the last heartbeat of a healthy worker, > 0. "
            "Heartbeats are 15 s apart by default."
        ),
    ] = 60.0,
    dsn: Dsn = None,
    as_json: AsJson = False,
) -> None:
    """Check a worker, for probes that run a command. Exit codes: 0 healthy, 1 not, 2 wrong call.

    With --url, its own server is asked: /livez whether it is alive, /readyz whether it is ready.
    Without, the database is asked whether a worker of this host has written a heartbeat lately.
    """
    if not timeout > 0 or not max_age > 0:
        raise InvalidSettingError("--timeout and --max-age must be seconds > 0")
    found = _of_database(resolve_dsn(dsn), max_age) if url is None else _of_server(url, timeout)
    if as_json:
        print_json(found)
    else:
        typer.echo("healthy" if found.healthy else f"not healthy: {cell('; '.join(found.reasons))}")
    if not found.healthy:
        raise typer.Exit(1)


def _of_server(url: str, timeout: float) -> Health:
    """Send one request. No proxy of the environment is used: the worker is near."""
    connection, path = _connection(url, timeout)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read(MAX_BODY)
    except (OSError, http.client.HTTPException) as error:
        return Health(False, [f"no answer from {url}: {str(error) or type(error).__name__}"])
    finally:
        connection.close()
    answer = _as_object(body)
    if response.status == http.HTTPStatus.OK:
        return Health(True, [], answer)
    said = (answer or {}).get("reasons")
    reasons = [str(reason) for reason in said] if isinstance(said, list) else []
    return Health(False, reasons or [f"{url} answers {response.status}"], answer)


def _as_object(body: bytes) -> dict[str, Any] | None:
    try:
        decoded = json.loads(body)
    except ValueError:
        return None
    return decoded if isinstance(decoded, dict) else None


def _connection(url: str, timeout: float) -> tuple[http.client.HTTPConnection, str]:
    """Return the connection to make, and the path to ask for.

    :raises InvalidSettingError: the URL can't be read.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        parts, host, port = urlsplit(""), None, None
    path = parts.path if parts.path not in ("", "/") else DEFAULT_PATH
    if not host or parts.scheme not in ("http", "https") or not f"{host}{path}".isprintable():
        raise InvalidSettingError(f"--url must be like http://127.0.0.1:8080/livez, not {url!r}")
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    return kind(host, port, timeout=min(timeout, MAX_TIMEOUT)), path.replace(" ", "%20")


def _of_database(dsn: str, max_age: float) -> Health:
    """Look for a worker of this host."""
    host = socket.gethostname()
    try:
        with psycopg_sync.connect(dsn, application_name="roost health") as connection:
            workers = run_sync(connection, workers_of_host(host))
    except DatabaseError as error:
        return Health(False, [f"the database can't be asked: {str(error).strip()}"])
    if not workers:
        return Health(False, [f"no worker of this host, {host}, is registered"], None, workers)
    age = min(worker.heartbeat_age_seconds for worker in workers)
    if age > max_age:
        reason = f"the last heartbeat of a worker of this host, {host}, is {duration(age)} old"
        return Health(False, [reason], None, workers)
    return Health(True, [], None, workers)
