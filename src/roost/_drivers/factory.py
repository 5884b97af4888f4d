"""Choose the driver for a DSN."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from roost.exceptions import InvalidSettingError

if TYPE_CHECKING:
    from roost._drivers.base import ListeningDriver, SyncDriver

_SCHEME = re.compile(r"^(?P<base>[a-z0-9]+)(?:\+(?P<driver>[a-z0-9_]+))?://", re.IGNORECASE)
_DRIVER_BY_SCHEME = {
    None: "psycopg",
    "psycopg": "psycopg",
    "psycopg_async": "psycopg",
    "asyncpg": "asyncpg",
}


def driver_for(dsn: str, driver: str | None = None) -> ListeningDriver:
    """Return the async driver for a DSN; without a choice it is psycopg.

    :param driver: ``"psycopg"`` or ``"asyncpg"``. It overrides a choice in the DSN, such as
        ``postgresql+asyncpg://``.
    :raises InvalidSettingError: there is no such driver, its package is missing, or the DSN can't
        be read.
    """
    scheme = _scheme_of(dsn)
    named = scheme["driver"] if scheme else None
    if driver not in (None, "psycopg", "asyncpg"):
        raise InvalidSettingError(f"driver must be 'psycopg' or 'asyncpg', not {driver!r}")
    if scheme:
        dsn = f"postgresql://{dsn[scheme.end() :]}"
    chosen = driver or _DRIVER_BY_SCHEME.get(named.lower() if named else None)
    if chosen == "asyncpg":
        return _asyncpg_driver(dsn)
    if chosen != "psycopg":
        raise InvalidSettingError(f"there is no driver {named!r}; use postgresql://")
    from roost._drivers.psycopg_anyio import PsycopgDriver

    return PsycopgDriver(dsn)


def _asyncpg_driver(dsn: str) -> ListeningDriver:
    if find_spec("asyncpg") is None:
        raise InvalidSettingError(
            "the asyncpg driver needs the package asyncpg: pip install 'anyroost[asyncpg]'"
        )
    from roost._drivers.asyncpg import AsyncpgDriver

    return AsyncpgDriver(dsn)


def sync_driver_for(dsn: str) -> SyncDriver:
    """Return the blocking driver. It is psycopg, also if the DSN names asyncpg.

    :raises InvalidSettingError: the DSN can't be read.
    """
    _scheme_of(dsn)
    from roost._drivers.psycopg_sync import PsycopgSyncDriver

    return PsycopgSyncDriver(re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", dsn))


def _scheme_of(dsn: str) -> re.Match[str] | None:
    """Return the scheme of a URL; refuse those of others, and what is no DSN at all."""
    scheme = _SCHEME.match(dsn)
    if scheme and scheme["base"].lower() not in ("postgresql", "postgres"):
        raise InvalidSettingError(f"the DSN must begin with postgresql://, not {scheme['base']}://")
    if not scheme and dsn.strip() and "=" not in dsn:
        raise InvalidSettingError(
            "the DSN can't be read: write it as postgresql://user:password@host/name"
        )
    return scheme
