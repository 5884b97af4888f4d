"""What a DSN says, for asyncpg, which knows fewer of libpq's parameters.

One that it does not know is sent to the server as a setting, and the server refuses the connection
when it does not know it either. So they are sorted here: what can be had in another way, what may
be left out, and what would be missed.
"""

from __future__ import annotations

import re
import socket
from urllib.parse import parse_qsl, urlencode, urlsplit

import attrs

from roost.exceptions import InvalidSettingError

_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_PAIR = re.compile(
    r"\s*(?P<key>\w+)\s*=\s*(?:'(?P<quoted>(?:\\.|[^'\\])*)'(?=\s|$)|(?P<plain>(?:\\.|[^\s\\'])*))",
    re.DOTALL,
)
_HOST = re.compile(r"(?:\[[^\]]*\]|[^\[\]:@]*)(?::\d*)?")

_LEFT_OUT = frozenset(
    {
        "client_encoding",  # asyncpg's own
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "load_balance_hosts",
        "prepared_statement_cache_size",  # SQLAlchemy's
        "sslcompression",
        "sslsni",
    }
)
_MISSED = frozenset(
    {
        "hostaddr",
        "oauth_client_id",
        "oauth_issuer",
        "replication",
        "require_auth",
        "requirepeer",
        "requiressl",
        "scram_client_key",
        "scram_server_key",
        "sslcertmode",
        "sslcrldir",
    }
)
_SOCKET_OPTIONS = {  # each with the socket's name for it and Roost's default
    "keepalives_idle": ("TCP_KEEPIDLE", 30),  # seconds
    "keepalives_interval": ("TCP_KEEPINTVL", 10),  # seconds
    "keepalives_count": ("TCP_KEEPCNT", 3),
    "tcp_user_timeout": ("TCP_USER_TIMEOUT", 30_000),  # milliseconds
}
_CONNECT_TIMEOUT = 10
_STATEMENT_CACHE_SIZE = 100


@attrs.frozen(repr=False)
class Parameters:
    """How to connect.

    :param dsn: what asyncpg can read itself.
    :param application_name: what the DSN says, which outranks what Roost would.
    :param timeout: seconds for connecting, all hosts together.
    :param statement_cache_size: how many statements stay prepared.
    :param socket_options: level, name and value of what is set on a TCP socket.
    """

    dsn: str
    application_name: str | None
    timeout: float
    statement_cache_size: int
    socket_options: tuple[tuple[int, int, int], ...]


def read_dsn(dsn: str) -> Parameters:
    """Read a ``postgresql://`` or ``key=value`` DSN; what it does not set gets Roost's defaults.

    :raises InvalidSettingError: it can't be read, or asks for what asyncpg does not have; the
        message does not quote it.
    """
    try:
        base, given = _read_url(dsn) if _SCHEME.match(dsn) else ("postgresql://", _read_pairs(dsn))
        for key in _MISSED.intersection(given):
            raise InvalidSettingError(f"asyncpg does not know {key}; use driver='psycopg'")
        if given.pop("channel_binding", "prefer") == "require":
            raise InvalidSettingError(
                "asyncpg has no channel binding, which the DSN requires; use driver='psycopg'"
            )
        if "ssl" in given:  # what others call it in DSNs for asyncpg
            given.setdefault("sslmode", given.pop("ssl"))
        alive = given.get("keepalives", "1") != "0"
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] if alive else []
        for key, (name, default) in _SOCKET_OPTIONS.items():
            value = int(given.pop(key, default))
            if alive and value and hasattr(socket, name):  # which of them exist is the system's
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
        timeout = int(given.pop("connect_timeout", _CONNECT_TIMEOUT))
        cache = int(given.pop("statement_cache_size", _STATEMENT_CACHE_SIZE))
    except ValueError as error:
        if isinstance(error, InvalidSettingError):
            raise
        # Python quotes what it can't read, which may be the password.
        raise InvalidSettingError("the DSN can't be read: it is malformed") from None
    query = urlencode({key: value for key, value in given.items() if key not in _LEFT_OUT})
    return Parameters(
        f"{base}?{query}" if query else base,
        application_name=given.get("application_name"),
        timeout=float(timeout if timeout > 0 else 60 * 60),  # libpq: zero is for ever
        statement_cache_size=cache,
        socket_options=tuple(options),
    )


def _read_url(dsn: str) -> tuple[str, dict[str, str]]:
    parts = urlsplit(_SCHEME.sub("postgresql://", dsn))
    user, _, hosts = parts.netloc.rpartition("@")
    # An unescaped / ? # or @ in the password lands in the wrong part.
    if "@" in user or parts.fragment or not all(map(_HOST.fullmatch, hosts.split(","))):
        raise ValueError
    base = f"postgresql://{parts.netloc}{parts.path}"
    return base, dict(parse_qsl(parts.query, strict_parsing=True) if parts.query else [])


def _read_pairs(dsn: str) -> dict[str, str]:
    given = {}
    end = 0
    while dsn[end:].strip():
        pair = _PAIR.match(dsn, end)
        if pair is None:
            raise ValueError
        raw = pair["plain"] if pair["quoted"] is None else pair["quoted"]
        given[pair["key"]] = re.sub(r"\\(.)", r"\1", raw, flags=re.DOTALL)
        end = pair.end()
    return given
