"""Read a DSN for asyncpg, which supports fewer parameters than libpq.

asyncpg sends a parameter that it does not know to the server as a setting, and the server refuses
the connection if it does not know it either. So each of libpq's parameters is handled here: set in
another way, ignored if that does no harm, or refused.
"""

from __future__ import annotations

import os
import re
import socket
from urllib.parse import parse_qsl, quote, unquote, urlencode

import attrs

from roost.exceptions import InvalidSettingError

_SCHEME = re.compile(r"^postgres(?:ql)?(?:\+\w+)?://", re.IGNORECASE)
_URL = re.compile(
    r"postgres(?:ql)?(?:\+\w+)?://(?:(?P<user>[^@/?#]*)@)?(?P<hosts>[^@/?#]*)(?P<path>(?:/[^?#]*)?)"
    r"(?:\?(?P<query>[^#]*))?",
    re.IGNORECASE,
)
_PAIR = re.compile(
    r"\s*(?P<key>\w+)\s*=\s*(?:'(?P<quoted>(?:\\.|[^'\\])*)'(?=\s|$)|(?P<plain>(?:\\.|[^\s\\'])*))",
    re.DOTALL,
)
_HOST = re.compile(r"(?:\[[^\]]*\]|[^\[\]:@]*)(?::\d*)?")

_IGNORED = frozenset(
    {
        "client_encoding",  # asyncpg sets it
        "fallback_application_name",
        "gssencmode",
        "keepalives",
        "load_balance_hosts",
        "prepared_statement_cache_size",  # SQLAlchemy's
        "sslcompression",
        "sslsni",
    }
)
_REFUSED = frozenset(
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
_SOCKET_OPTIONS = {  # the socket's name for each, and Roost's default
    "keepalives_idle": ("TCP_KEEPIDLE", 30),  # seconds
    "keepalives_interval": ("TCP_KEEPINTVL", 10),  # seconds
    "keepalives_count": ("TCP_KEEPCNT", 3),
    "tcp_user_timeout": ("TCP_USER_TIMEOUT", 30_000),  # milliseconds
}
_CONNECT_TIMEOUT = 10
_STATEMENT_CACHE_SIZE = 100


@attrs.frozen(repr=False)
class Parameters:
    """The parameters of a connection.

    :param dsns: one for each host, in a form that asyncpg reads.
    :param application_name: the one in the DSN, which overrides Roost's.
    :param timeout: seconds for connecting, for each host.
    :param statement_cache_size: the number of statements that stay prepared.
    :param socket_options: level, name and value of each option to set on a TCP socket.
    """

    dsns: tuple[str, ...]
    application_name: str | None
    timeout: float
    statement_cache_size: int
    socket_options: tuple[tuple[int, int, int], ...]


def read_dsn(dsn: str) -> Parameters:
    """Read a ``postgresql://`` or ``key=value`` DSN; what it does not set gets Roost's defaults.

    :raises InvalidSettingError: it can't be read, or has a parameter that asyncpg does not support.
        The message does not quote the DSN.
    """
    try:
        base, given = _read_url(dsn) if _SCHEME.match(dsn) else ("postgresql://", _read_pairs(dsn))
        for key in _REFUSED.intersection(given):
            raise InvalidSettingError(f"asyncpg does not support {key}; use driver='psycopg'")
        if given.pop("channel_binding", "prefer") == "require":
            raise InvalidSettingError(
                "the DSN requires channel binding, which asyncpg does not support; "
                "use driver='psycopg'"
            )
        if "ssl" in given:  # the name in other libraries' DSNs for asyncpg
            given.setdefault("sslmode", given.pop("ssl"))
        alive = given.get("keepalives", "1") != "0"
        options = [(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)] if alive else []
        for key, (name, default) in _SOCKET_OPTIONS.items():
            value = int(given.pop(key, default))
            if alive and value and hasattr(socket, name):  # the system may lack it
                options.append((socket.IPPROTO_TCP, getattr(socket, name), value))
        hosts = given.get("host", "").split(",")
        ports = given.get("port", "").split(",")
        if len(ports) not in (1, len(hosts)):
            raise ValueError
        default = max(2, _CONNECT_TIMEOUT // len(hosts))
        timeout = int(given.pop("connect_timeout", default))
        cache = int(given.pop("statement_cache_size", _STATEMENT_CACHE_SIZE))
    except ValueError as error:
        if isinstance(error, InvalidSettingError):
            raise
        # Python's message quotes the text that it can't read, which may be the password.
        raise InvalidSettingError("the DSN can't be read: it is malformed") from None
    kept = {key: value for key, value in given.items() if key not in _IGNORED}
    several: list[dict[str, str]] = [{}]
    if len(hosts) > 1:
        # One of the hosts is a standby, which takes no writes.
        if "PGTARGETSESSIONATTRS" not in os.environ:
            kept.setdefault("target_session_attrs", "read-write")
        several = [{"host": host} for host in hosts]
        if ports != [""]:
            for number, one in enumerate(several):
                one["port"] = ports[number if len(ports) > 1 else 0]
    queries = [urlencode({**kept, **one}) for one in several]
    return Parameters(
        tuple(f"{base}?{query}" if query else base for query in queries),
        application_name=given.get("application_name"),
        timeout=float(timeout if timeout > 0 else 60 * 60),  # zero means no limit in libpq
        statement_cache_size=cache,
        socket_options=tuple(options),
    )


def _read_url(dsn: str) -> tuple[str, dict[str, str]]:
    # Without urlsplit, which asyncpg uses: the lists of IPv6 addresses that it accepts depend on
    # Python's patch version. For the same reason several hosts are passed as a parameter.
    url = _URL.fullmatch(dsn)
    if url is None:
        raise ValueError
    given = dict(parse_qsl(url["query"], strict_parsing=True) if url["query"] else [])
    hosts = url["hosts"].split(",")
    # An unescaped / ? # or @ in the password makes a part of it look like a host.
    if not all(map(_HOST.fullmatch, hosts)) or (len(hosts) > 1 and not all(hosts)):
        raise ValueError
    user = ""
    if url["user"] is not None:
        # Quoted again, because asyncpg's parser fails at a bracket.
        user = ":".join(quote(unquote(part), safe="") for part in url["user"].split(":", 1)) + "@"
    if len(hosts) == 1:
        return f"postgresql://{user}{hosts[0]}{url['path']}", given
    given["host"] = ",".join(map(unquote, hosts))
    return f"postgresql://{user}{url['path']}", given


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
