"""Print a DSN without its passwords."""

from __future__ import annotations

import re
from urllib.parse import unquote

_HIDDEN = "***"
_PASSWORDS = {"password", "sslpassword"}
_SCHEME = re.compile(r"^[a-z0-9]+(?:\+[a-z0-9_]+)?://", re.IGNORECASE)
_URL_PASSWORD = re.compile(r"(?<=://)(?P<user>[^:/?#@]*):[^/?#]*(?=@)")
_URL_PASSWORD_LOOSE = re.compile(r"(?<=://)(?P<user>[^:/?#@]*):.*(?=@)", re.DOTALL)
# libpq decodes the key, and takes a # as part of the value.
_QUERY_VALUE = re.compile(r"(?<=[?&])(?P<key>[^?&=]*)=[^&]*")
_PAIR_PASSWORD = re.compile(
    r"(?P<key>\b(?:ssl)?password\s*=\s*)(?:'(?:\\.|[^'\\])*(?:'|$)|(?:\\.|[^\s\\])*)",
    re.IGNORECASE | re.DOTALL,
)


def redact(dsn: str) -> str:
    """Return ``dsn`` for printing, with ``***`` in place of every password in it.

    Of a DSN that can't be read more than the password may be replaced, never less.
    """
    if _SCHEME.match(dsn):
        # A password with an unescaped / ? # or @ makes the URL malformed, but must not be shown.
        # So replace everything up to the last @.
        if not _URL_PASSWORD.search(dsn) or dsn.count("@") > 1:
            shown = _URL_PASSWORD_LOOSE.sub(rf"\g<user>:{_HIDDEN}", dsn)
        else:
            shown = _URL_PASSWORD.sub(rf"\g<user>:{_HIDDEN}", dsn)
        return _QUERY_VALUE.sub(_without_password, shown)
    return _PAIR_PASSWORD.sub(rf"\g<key>{_HIDDEN}", dsn)


def _without_password(pair: re.Match[str]) -> str:
    key = pair["key"]
    return f"{key}={_HIDDEN}" if unquote(key).lower() in _PASSWORDS else pair[0]
