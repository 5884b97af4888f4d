"""What `AsyncRoost.doctor` returns: one finding for each thing that was checked."""

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class FindingLevel(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    TROUBLE = "trouble"


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """One thing that the doctor has looked at.

    :param check: which check it is of, such as ``indexes``; a check may have several findings.
    :param level: ``ok``; ``note``: worth knowing, or not seen; ``trouble``: jobs are late, or will
        be, or can be lost.
    :param subject: the queue, worker, index or setting that it is about, if it is about one.
    :param seen: what was seen, with its numbers.
    :param advice: what to do; ``None``: nothing.
    :param data: the numbers, as JSON can hold them. ``{"unseen": true}``: it was not checked.
    """

    check: str
    level: FindingLevel
    subject: str | None = None
    seen: str
    advice: str | None = None
    data: dict[str, Any] = field(default_factory=dict)


def size(number: float) -> str:
    """Return a number of bytes for people, such as ``64 MB``."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if number < 1_000:
            return f"{number:.3g} {unit}"
        number /= 1_000
    return f"{number:.3g} TB"


def quoted(text: str) -> str:
    """Return a text as a literal of SQL."""
    return "'" + text.replace("'", "''") + "'"


def plural(number: int, noun: str) -> str:
    """Return a number and a noun, such as ``1 job`` and ``1,000 jobs``."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"
