"""Read a DSN into libpq's parameters, with Roost's defaults."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Any

import psycopg
from psycopg.conninfo import conninfo_to_dict

from roost.exceptions import InvalidSettingError

_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+(?:psycopg|psycopg_async|asyncpg))?://")
_CACHE_SIZE = re.compile(r"(?P<before>[?&\s]|^)statement_cache_size\s*=\s*(?P<size>\d+)&?")

_DEFAULTS = {
    "connect_timeout": "10",  # seconds, for each address
    "keepalives_idle": "30",  # seconds
    "keepalives_interval": "10",  # seconds
    "keepalives_count": "3",
    "tcp_user_timeout": "30000",  # milliseconds
}
_ESCAPE = ' (in a URL\'s user name or password write "@" as %40, "/" as %2F, "%" as %25)'


def connection_parameters(dsn: str, *, application_name: str) -> dict[str, Any]:
    """Return libpq's parameters for ``dsn``; what it does not set gets Roost's defaults.

    asyncpg's ``statement_cache_size=0`` is understood too: prepare no statement, which poolers need
    that do not know prepared statements. Other sizes are ignored.

    :param dsn: ``postgresql://``, ``postgres://``, those with ``+psycopg`` or ``+asyncpg``, or
        ``key=value`` …
    :raises InvalidSettingError: it can't be read. The message does not quote it.
    """
    cache = _CACHE_SIZE.search(dsn)
    dsn = _CACHE_SIZE.sub(r"\g<before>", dsn)
    try:
        given = conninfo_to_dict(_SCHEME.sub("postgresql://", dsn))
    except (psycopg.Error, ValueError) as error:
        raise InvalidSettingError(
            f"the DSN can't be read: {_reason_without_quotes(error)}{_ESCAPE}"
        ) from None
    if _has_split_password(dsn, given):
        raise InvalidSettingError(f"the DSN can't be read: it is malformed{_ESCAPE}")
    parameters: dict[str, Any] = {**_DEFAULTS, "application_name": application_name, **given}
    parameters["client_encoding"] = "UTF8"  # whatever the DSN says: with another, text is lost
    hosts = str(parameters.get("host", "")).count(",") + 1
    if hosts > 1:
        if "connect_timeout" not in given:
            parameters["connect_timeout"] = str(max(2, 10 // hosts))
        # One of the hosts is a standby, which takes no writes.
        if "PGTARGETSESSIONATTRS" not in os.environ:
            parameters.setdefault("target_session_attrs", "read-write")
    if cache and int(cache["size"]) == 0:
        parameters["prepare_threshold"] = None
    return parameters


def _reason_without_quotes(error: Exception) -> str:
    # libpq quotes parts of the DSN, which may be the password. In other languages than English it
    # uses other quotation marks.
    reason = re.sub(r'".*"', '"…"', str(error), flags=re.DOTALL).strip()
    if re.fullmatch(r"[a-zA-Z =:,'&%-]*(\"…\"[a-zA-Z =:,'&%-]*)?", reason):
        return reason
    return "it is malformed"


def _has_split_password(dsn: str, given: Mapping[str, Any]) -> bool:
    """Say whether an unescaped character has moved a part of the password to another place.

    libpq would name that part in its errors: as a host that is not found, a port that is no number,
    a database that does not exist.
    """
    if not _SCHEME.match(dsn):
        return False
    authority, _, path = dsn.split("://", 1)[1].partition("/")
    return (
        authority.partition("?")[0].count("@") > 1
        or "@" in path.partition("?")[0]
        or not re.fullmatch(r"[\d,]*", str(given.get("port", "")))
    )
