"""Choose the driver for a DSN, and print a DSN without its password."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING

from roost.exceptions import InvalidSettingError

if TYPE_CHECKING:
    from roost._drivers.base import AsyncDriver, SyncDriver

_SCHEME = re.compile(r"^(?P<base>[a-z0-9]+)(?:\+(?P<driver>[a-z0-9_]+))?://", re.IGNORECASE)
_DRIVERS_IN_DSNS = {
    None: "psycopg",
    "psycopg": "psycopg",
    "psycopg_async": "psycopg",
    "asyncpg": "asyncpg",
}
_HIDDEN = "***"


def driver_for(dsn: str, driver: str | None = None) -> AsyncDriver:
    """Return the driver that is asked for; psycopg unless somebody says otherwise.

    :param driver: ``"psycopg"`` or ``"asyncpg"``; outranks what the DSN says, such as
        ``postgresql+asyncpg://``.
    :raises InvalidSettingError: there is no such driver, its package is missing, or the DSN can't
        be read.
    """
    scheme = _SCHEME.match(dsn)
    if scheme and scheme["base"].lower() not in ("postgresql", "postgres"):
        raise InvalidSettingError(f"the DSN must begin with postgresql://, not {scheme['base']}://")
    said = scheme["driver"] if scheme else None
    if driver not in (None, "psycopg", "asyncpg"):
        raise InvalidSettingError(f"driver must be 'psycopg' or 'asyncpg', not {driver!r}")
    if scheme:
        dsn = f"postgresql://{dsn[scheme.end() :]}"
    chosen = driver or _DRIVERS_IN_DSNS.get(said.lower() if said else None)
    if chosen == "asyncpg":
        return _asyncpg_driver(dsn)
    if chosen != "psycopg":
        raise InvalidSettingError(f"there is no driver {said!r}; use postgresql://")
    from roost._drivers.psycopg_anyio import PsycopgDriver

    return PsycopgDriver(dsn)


def _asyncpg_driver(dsn: str) -> AsyncDriver:
    if find_spec("asyncpg") is None:
        raise InvalidSettingError(
            "the asyncpg driver needs the package asyncpg: pip install 'anyroost[asyncpg]'"
        )
    from roost._drivers.asyncpg import AsyncpgDriver

    return AsyncpgDriver(dsn)


def sync_driver_for(dsn: str) -> SyncDriver:
    """Return the blocking driver; whatever async driver the DSN asks for, it is psycopg.

    :raises InvalidSettingError: the DSN can't be read.
    """
    from roost._drivers.psycopg_sync_driver import PsycopgSyncDriver

    return PsycopgSyncDriver(re.sub(r"^(postgres(?:ql)?)\+\w+://", r"\1://", dsn))


_URL_PASSWORD = re.compile(r"(?<=://)(?P<user>[^:/?#@]*):[^/?#]*(?=@)")
_URL_PASSWORD_LOOSE = re.compile(r"(?<=://)(?P<user>[^:/?#@]*):.*(?=@)", re.DOTALL)
_QUERY_PASSWORD = re.compile(r"(?P<key>[?&](?:ssl)?password=)[^&#]*", re.IGNORECASE)
_PAIR_PASSWORD = re.compile(
    r"(?P<key>\b(?:ssl)?password\s*=\s*)(?:'(?:\\.|[^'\\])*(?:'|$)|(?:\\.|[^\s\\])*)",
    re.IGNORECASE | re.DOTALL,
)


def redact(dsn: str) -> str:
    """Return ``dsn`` for printing, every password in it replaced by ``***``.

    A DSN that can't be read loses rather too much than too little.
    """
    if _SCHEME.match(dsn):
        # A password with an unescaped / ? # or @ is malformed, yet must not be shown: up to the
        # last @ that is not in the query part, or to the last of all if none is before it.
        if not _URL_PASSWORD.search(dsn) or dsn.count("@") > 1:
            shown = _URL_PASSWORD_LOOSE.sub(rf"\g<user>:{_HIDDEN}", dsn)
        else:
            shown = _URL_PASSWORD.sub(rf"\g<user>:{_HIDDEN}", dsn)
        return _QUERY_PASSWORD.sub(rf"\g<key>{_HIDDEN}", shown)
    return _PAIR_PASSWORD.sub(rf"\g<key>{_HIDDEN}", dsn)
