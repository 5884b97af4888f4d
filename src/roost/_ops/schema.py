"""Apply, revert and check the migrations.

`apply` and `revert` must run inside a transaction: a migration is there whole or not at all.
"""

from __future__ import annotations

from collections.abc import Iterable

import attrs

from roost._ops.query import Op, Query
from roost._sql import Migration, functions, migrations, statements
from roost.exceptions import DatabaseError, SchemaError

_SQL = statements("schema")
_CREATE_LEDGER = attrs.evolve(_SQL["create_ledger"], script=True)
_DROP_LEDGER = attrs.evolve(_SQL["drop_ledger"], script=True)

LOCK_TIMEOUT = "30s"
"""How long a migration waits for a lock, and others behind it, before it is rolled back."""
OLDEST_SERVER = 13
"""The lowest major version of Postgres; see docs/reference/servers.md for what is tested."""
SEARCH_PATH = "pg_catalog, pg_temp"
"""Migrations find functions and operators only here, where other roles can't create any."""
_EXISTS = {"23505", "42P06", "42P07"}
"""The sqlstates when another process has created the same object at the same time."""
LEDGER_TRIES = 20
"""How often the table of migrations is created, at most. The second try mostly succeeds."""
MIGRATION_TIMEOUT = 600.0
"""Seconds for all migrations together, including the wait for another process."""


def newest() -> int:
    """Return the schema version that this code brings."""
    return migrations()[-1].version


def apply() -> Op[list[Migration]]:
    """Bring the schema up to `newest` and return the migrations that were applied.

    The functions are created again after the last migration, so that each has one file. Waits for
    another process that migrates.

    :raises SchemaError: the database's schema is newer than this code can work with.
    :raises DatabaseUnavailableError: a lock was not available within `LOCK_TIMEOUT`.
    """
    yield from check_server()
    if (yield from _is_up_to_date()):
        return []  # needs no right to create anything
    before = (yield Query(_SQL["lock_timeout"], (LOCK_TIMEOUT,)))[0][0]
    path = (yield Query(_SQL["search_path"], (SEARCH_PATH,)))[0][0]
    if not (yield from _exists()):
        yield from _create_ledger()
    yield Query(_SQL["lock"])
    missing = yield from _missing()
    for migration in missing:
        yield Query(migration.up)
        yield Query(_SQL["record"], (migration.version, migration.name, migration.oldest_code))
    if missing:
        for function in functions():
            yield Query(function)
    yield Query(_SQL["search_path"], (path,))
    yield Query(_SQL["lock_timeout"], (before,))
    return missing


def _create_ledger() -> Op[None]:
    """Create the table of migrations; wait for another process that does the same.

    Postgres may refuse the schema as existing and not find it for a moment: the other process has
    committed, and has not told all processes yet. So the whole is tried again.
    """
    for tries_left in range(LEDGER_TRIES - 1, -1, -1):
        yield Query(_SQL["begin_ledger"])
        try:
            yield Query(_CREATE_LEDGER)
        except DatabaseError as error:
            if error.sqlstate not in _EXISTS or not tries_left:
                raise
            yield Query(_SQL["undo_ledger"])
        else:
            return


def _missing() -> Op[list[Migration]]:
    """Return the migrations that are not applied yet.

    :raises SchemaError: the database's schema is newer than this code can work with.
    """
    applied = yield from _applied()
    _refuse_newer(applied)
    done = {row.version for row in applied}
    return [migration for migration in migrations() if migration.version not in done]


def revert(*, to: int) -> Op[list[Migration]]:
    """Undo every migration above version ``to``, newest first; 0 removes the schema.

    :raises SchemaError: the database has a migration that this code doesn't know.
    """
    if not (yield from _exists()):
        return []
    yield Query(_SQL["lock_timeout"], (LOCK_TIMEOUT,))
    yield Query(_SQL["lock"])
    known = {migration.version: migration for migration in migrations()}
    undone = []
    for row in reversed((yield from _applied())):
        if row.version <= to:
            break
        if row.version not in known:
            raise SchemaError(
                f"this version of Roost can't undo migration {row.version} ({row.name}); "
                "use the version that applied it"
            )
        yield Query(known[row.version].down)
        yield Query(_SQL["forget"], (row.version,))
        undone.append(known[row.version])
    if to == 0:
        yield Query(_DROP_LEDGER)
    return undone


def script(*, above: int = 0) -> str:
    """Return the SQL that `apply` runs on a database whose schema has the version ``above``.

    For databases that only an administrator may change: ``psql`` runs it whole or not at all.

    :param above: the schema's version; 0: there is no schema.
    :raises SchemaError: this code brings no migration above that version.
    """
    missing = [migration for migration in migrations() if migration.version > above]
    if not missing:
        raise SchemaError(f"no migration above version {above}: the newest is {newest()}")
    return _joined(
        [
            f"-- Roost's schema from version {above} to {newest()}.",
            "begin;",
            f"set local lock_timeout = '{LOCK_TIMEOUT}';",
            f"set local search_path = {SEARCH_PATH};",
            *([_CREATE_LEDGER.text] if above == 0 else []),
            _SQL["lock"].text,
            *(
                part
                for migration in missing
                for part in (
                    migration.up.text,
                    # A second run fails here, on the primary key.
                    _filled("record", migration.version, migration.name, migration.oldest_code),
                )
            ),
            *(function.text for function in functions()),
            "commit;",
        ]
    )


def revert_script(*, to: int) -> str:
    """Return the SQL that undoes this code's migrations above version ``to``, newest first.

    :param to: the version to go back to; 0 removes the schema.
    :raises SchemaError: this code brings no migration above that version.
    """
    undone = [migration for migration in reversed(migrations()) if migration.version > to]
    if not undone:
        raise SchemaError(f"no migration above version {to}: the newest is {newest()}")
    return _joined(
        [
            f"-- Roost's schema from version {newest()} back to {to}. Its data is lost.",
            "begin;",
            f"set local lock_timeout = '{LOCK_TIMEOUT}';",
            _SQL["lock"].text,
            *(
                part
                for migration in undone
                for part in (
                    migration.down.text,
                    _filled("forget", migration.version),
                )
            ),
            *([_DROP_LEDGER.text] if to == 0 else []),
            "commit;",
        ]
    )


def _filled(name: str, *values: int | str) -> str:
    """Return a statement's text with literals for its parameters."""
    text = _SQL[name].text
    for n, value in enumerate(values, 1):
        text = text.replace(f"${n}", f"'{value}'")
    return text


def _joined(parts: Iterable[str]) -> str:
    return "\n\n".join(part.strip() for part in parts) + "\n"


def check() -> Op[None]:
    """Make sure that this code can work with the database's schema.

    :raises SchemaError: it is missing, incomplete, or too new.
    """
    yield from check_server()
    if not (yield from _exists()):
        raise SchemaError("the database has no Roost schema; run `roost init` or setup_schema()")
    applied = yield from _applied()
    _refuse_newer(applied)
    missing = newest() - max((row.version for row in applied), default=0)
    if missing > 0:
        raise SchemaError(
            f"{missing} migration(s) are not applied yet; run `roost migrate up` or setup_schema()"
        )


def check_server() -> Op[None]:
    """Make sure that the server is one that Roost works with.

    :raises SchemaError: it is older than `OLDEST_SERVER`.
    """
    [(version,)] = yield Query(_SQL["server_version"])
    if version < OLDEST_SERVER * 10_000:
        raise SchemaError(
            f"Roost needs Postgres {OLDEST_SERVER} or newer, and this server is Postgres "
            f"{version // 10_000}: upgrade it"
        )


@attrs.frozen
class Step:
    """One migration: whether the database has it, and whether this code knows it."""

    version: int
    name: str
    applied: bool
    known: bool


def status() -> Op[list[Step]]:
    """List every migration that the database has or this code brings, oldest first."""
    known = {migration.version: migration.name for migration in migrations()}
    applied: dict[int, str] = {}
    if (yield from _exists()):
        applied = {row.version: row.name for row in (yield from _applied())}
    return [
        Step(version, name, applied=version in applied, known=version in known)
        for version, name in sorted({**applied, **known}.items())
    ]


@attrs.frozen
class _Applied:
    version: int
    name: str
    oldest_code: int


def _applied() -> Op[list[_Applied]]:
    rows = yield Query(_SQL["applied"])
    return [_Applied(*row) for row in rows]


def _is_up_to_date() -> Op[bool]:
    if not (yield from _exists()):
        return False
    applied = yield from _applied()
    _refuse_newer(applied)
    return {migration.version for migration in migrations()} <= {row.version for row in applied}


def _exists() -> Op[bool]:
    rows = yield Query(_SQL["exists"])
    return bool(rows[0][0])


def _refuse_newer(applied: list[_Applied]) -> None:
    for row in applied:
        if row.oldest_code > newest():
            raise SchemaError(
                f"the schema (version {row.version}) needs a newer Roost than this one, "
                f"which brings version {newest()}; upgrade Roost"
            )
