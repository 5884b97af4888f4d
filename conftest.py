"""Databases for the tests: one server for a run and its xdist workers, one database for a test.

``ROOST_TEST_DSN`` (a superuser's URL) chooses another server than the embedded one, and
``ROOST_PG_BIN`` the Postgres programs of the embedded one. The file is at the root of the project
because ``tests`` and ``property_tests`` use it.
"""

from __future__ import annotations

import importlib.util
import itertools
import os
import shutil
import signal
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, urlsplit

import attrs
import psycopg
import pytest

from roost.embedded import EmbeddedPostgresError, remove, server
from roost.embedded.cluster import Cluster
from roost.embedded.lock import FileLock
from roost.embedded.os_user import check_owner
from roost.embedded.server import open_cluster

SETTINGS: Mapping[str, object] = {
    "fsync": False,
    "synchronous_commit": False,
    "full_page_writes": False,
    "autovacuum": False,
    "max_connections": 200,
    "max_wal_size": "256MB",  # the data is in memory
    # In the data folder, which is deleted: a killed server leaves shared memory in other places.
    "dynamic_shared_memory_type": "mmap",
}

RESTARTABLE = {**SETTINGS, "synchronous_commit": True}
"""For servers that tests kill: a commit must survive that. Without fsync this costs little."""

ROOM = 1 << 30
"""The server's data goes to /dev/shm if at least this many bytes are free there."""

# These modules assert, too, and pytest then shows the values of a failed assertion.
pytest.register_assert_rewrite("tests.support")
pytest_plugins = ["tests.support.timing"]

RUN = pytest.StashKey[Path]()
RUN_LOCK = pytest.StashKey[FileLock]()

_numbers = itertools.count(1)


# Each run has a folder, and holds a lock in it. So a later run can tell the folder of a killed run
# from one that is in use.


def pytest_configure(config: pytest.Config) -> None:
    # In the background of a shell and under nohup these signals are ignored. The programs that
    # tests start would inherit that, and tests send them these signals.
    for number, usual in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGHUP, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is signal.SIG_IGN:
            signal.signal(number, usual)
    workerinput = getattr(config, "workerinput", None)
    if workerinput is not None:
        config.stash[RUN] = Path(workerinput["roost_run"])
        return
    runs = _runs_folder()
    with _locked(runs):
        for leftover in runs.glob("run-*"):
            _remove_run_unless_in_use(leftover)
        run = runs / f"run-{uuid.uuid4().hex[:8]}"
        run.mkdir()
        config.stash[RUN] = run
        config.stash[RUN_LOCK] = FileLock.open(run / "run.lock")
        config.stash[RUN_LOCK].exclusive(timeout=0)


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    node.workerinput["roost_run"] = str(node.config.stash[RUN])


def pytest_unconfigure(config: pytest.Config) -> None:
    run_lock = config.stash.get(RUN_LOCK, None)
    if run_lock is None:
        return
    run = config.stash[RUN]
    with _locked(run.parent):
        run_lock.close()
        _remove_run_unless_in_use(run)
        if not list(run.parent.glob("run-*")):
            shutil.rmtree(run.parent)


def _runs_folder() -> Path:
    shm = Path("/dev/shm")  # noqa: S108  (the owner of our folder is checked)
    roomy = shm.is_dir() and os.access(shm, os.W_OK) and shutil.disk_usage(shm).free >= ROOM
    return (shm if roomy else Path(tempfile.gettempdir())) / f"roost-tests-{os.geteuid()}"


@contextmanager
def _locked(runs: Path) -> Iterator[None]:
    """Hold the lock for adding and removing folders in ``runs``. Creates ``runs``."""
    while True:
        runs.mkdir(mode=0o755, exist_ok=True)
        check_owner(runs, os.geteuid())
        try:
            lock = FileLock.open(runs / "lock")
        except FileNotFoundError:
            continue  # another run removed it in the meantime
        with lock:
            lock.exclusive(timeout=120)
            if os.fstat(lock.fileno()).st_nlink:  # not deleted while we waited
                yield
                return


def _remove_run_unless_in_use(run: Path) -> None:
    with FileLock.open(run / "run.lock") as run_lock:
        if not run_lock.try_exclusive():
            return
        for use_lock in list(run.rglob("use.lock")):
            with suppress(EmbeddedPostgresError):  # also the fixtures of tests of `roost.embedded`
                remove(use_lock.parent)
        # A server runs if a process of that run lives: the next run removes it.
        if not any(run.rglob("postmaster.pid")):
            shutil.rmtree(run)


# The server and its databases.


@attrs.frozen
class Databases:
    """Creates and drops databases on the server of ``dsn``."""

    dsn: str
    prefix: str

    def dsn_for(self, database: str) -> str:
        parts = urlsplit(self.dsn)
        # Not urlunsplit: it drops the // of an empty host.
        query = f"?{parts.query}" if parts.query else ""
        return f"{parts.scheme}://{parts.netloc}/{quote(database, safe='')}{query}"

    @contextmanager
    def fresh(self, template: str) -> Iterator[str]:
        """Yield the name of a clone of ``template`` and drop it afterwards."""
        name = f"{self.prefix}_{next(_numbers)}"
        with psycopg.connect(self.dsn, autocommit=True) as admin:
            # Before Postgres 15 this is the only strategy, and has no name.
            copy = " strategy file_copy" if admin.info.server_version >= 150_000 else ""
            admin.execute(f'create database "{name}" template "{template}"{copy}')
        try:
            yield name
        finally:
            self._execute(f'drop database "{name}" with (force)')

    def _execute(self, statement: str) -> None:
        # A new connection each time, since a test may restart the server. It takes 3 ms.
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            connection.execute(statement.encode())


@pytest.fixture(scope="session")
def run_folder(pytestconfig: pytest.Config) -> Path:
    """Return the run's folder; servers' data folders in it are named ``pg*``."""
    return pytestconfig.stash[RUN]


@pytest.fixture(scope="session")
def server_dsn(run_folder: Path) -> Iterator[str]:
    """Yield the DSN of the maintenance database of the run's server, as a superuser."""
    chosen = os.environ.get("ROOST_TEST_DSN")
    if not chosen:
        with server(run_folder / "pg", settings=SETTINGS) as pg:
            yield pg.dsn
    elif "://" in chosen:
        yield chosen
    else:
        pytest.exit("ROOST_TEST_DSN must be a URL: postgresql://user@host/postgres", 4)


@pytest.fixture(scope="session")
def databases(server_dsn: str, run_folder: Path) -> Databases:
    """Return the maker of databases on the run's server."""
    run = run_folder.name.replace("-", "_")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    return Databases(server_dsn, f"roost_{run}_{worker}")


@pytest.fixture(scope="module")
def databases_alone(run_folder: Path) -> Iterator[Databases]:
    """Yield the maker of databases on a server that only one module uses, in one process.

    Workers look at the oldest transaction of the whole server: while another test has one open,
    they poll, and find what they were not told of.
    """
    if os.environ.get("ROOST_TEST_DSN"):
        pytest.skip("needs a server of its own, and ROOST_TEST_DSN chooses another one")
    data_dir = run_folder / f"pg-{os.environ.get('PYTEST_XDIST_WORKER', 'main')}-{next(_numbers)}"
    try:
        with server(data_dir, settings=SETTINGS) as pg:
            yield Databases(pg.dsn, "roost")
    finally:
        remove(data_dir)


@pytest.fixture(scope="session")
def template(databases: Databases) -> Iterator[str]:
    """Yield the name of a database with Roost's schema. A template must have no sessions."""
    with databases.fresh("template0") as name:
        apply_schema(databases.dsn_for(name))
        yield name


@pytest.fixture
def empty_dsn(databases: Databases) -> Iterator[str]:
    """Yield the DSN of a fresh empty database."""
    with databases.fresh("template0") as name:
        yield databases.dsn_for(name)


@pytest.fixture
def dsn(databases: Databases, template: str) -> Iterator[str]:
    """Yield the DSN of a fresh database with Roost's schema."""
    with databases.fresh(template) as name:
        yield databases.dsn_for(name)


def apply_schema(dsn: str) -> None:
    """Create Roost's schema, in a transaction."""
    from roost._drivers import base, psycopg_sync
    from roost._ops import schema

    connection = psycopg_sync.connect(dsn)
    try:
        with connection.transaction():
            base.run_sync(connection, schema.apply())
    finally:
        connection.close()


# A server for one test, to stop and to kill.


@attrs.frozen
class RestartableServer:
    """A server for one test. Its DSN stays the same after a restart."""

    cluster: Cluster
    server_dsn: str
    dsn: str

    def start(self) -> None:
        """Start it if it is not running. Return when it accepts connections."""
        self.cluster.ensure_started(RESTARTABLE)

    def stop(self, mode: Literal["fast", "immediate", "kill"] = "fast") -> None:
        """Stop it, and return when it has ended; "kill" is a SIGKILL of the postmaster."""
        if mode == "kill":
            os.kill(self.pid(), signal.SIGKILL)
        else:
            self.cluster.stop(mode)

    def restart(self, mode: Literal["fast", "immediate", "kill"] = "fast") -> None:
        """Stop it in ``mode`` and start it."""
        self.stop(mode)
        self.start()

    def pid(self) -> int:
        """Return the postmaster's process id."""
        return int((self.cluster.paths.cluster / "postmaster.pid").read_text().split()[0])


@pytest.fixture
def restartable_server(run_folder: Path) -> Iterator[RestartableServer]:
    """Yield a running server for this test alone; ``.dsn`` is a database with Roost's schema."""
    if os.environ.get("ROOST_TEST_DSN"):
        pytest.skip("needs the embedded Postgres, and ROOST_TEST_DSN chooses another server")
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    data_dir = run_folder / f"pg-{worker}-{next(_numbers)}"
    try:
        with server(data_dir, settings=RESTARTABLE) as pg:
            databases = Databases(pg.dsn, "roost")
            with databases.fresh("template0") as name:
                dsn = databases.dsn_for(name)
                apply_schema(dsn)
                own = RestartableServer(open_cluster(data_dir, None), pg.dsn, dsn)
                yield own
                own.start()
    finally:
        remove(data_dir)


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
        pytest.param(
            ("asyncio", {"use_uvloop": True}),
            id="asyncio+uvloop",
            marks=pytest.mark.skipif(
                importlib.util.find_spec("uvloop") is None, reason="uvloop is not installed"
            ),
        ),
        pytest.param(("trio", {}), id="trio"),
    ],
)
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """Run each test marked anyio on every backend."""
    backend: tuple[str, dict[str, object]] = request.param
    return backend
