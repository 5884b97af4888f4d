"""Write a statement's ``$n`` placeholders the way a DB-API driver wants them."""

from __future__ import annotations

import re
from functools import lru_cache

_NUMBERED = re.compile(r"\$(\d+)")
_COMMENT = re.compile(r"--[^\n]*")


def to_format(text: str, parameters: tuple[object, ...]) -> tuple[str, tuple[object, ...]]:
    """Return the text with ``%s`` for each ``$n``, and the parameters in that order."""
    formatted, order = _formatted(text)
    return formatted, tuple(parameters[number - 1] for number in order)


@lru_cache(maxsize=128)
def _formatted(text: str) -> tuple[str, tuple[int, ...]]:
    # Comments name parameters too.
    bare = _COMMENT.sub("", text)
    order = tuple(int(match[1]) for match in _NUMBERED.finditer(bare))
    return _NUMBERED.sub("%s", bare.replace("%", "%%")), order
