"""What a running job's handler writes into the job's metadata: checked and encoded.

The worker, and the process of a handler, set `metadata_writer` in the context of their jobs.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Protocol

from roost._model.codec import EncodingError, encode
from roost.exceptions import InvalidJobError

PROGRESS = '"progress"'
"""The key that `Job.progress` sets, encoded."""


class MetadataWriter(Protocol):
    """Writes changes of the running job's metadata: the JSON texts of values, by encoded key.

    Each method raises what `Job.progress` says.
    """

    async def write_progress(self, job_id: int, changes: dict[str, str]) -> None:
        """Write the changes; return at once if a write was made a moment ago."""
        ...

    async def write(self, job_id: int, changes: dict[str, str]) -> None:
        """Write the changes and return when they are written."""
        ...

    def write_nowait(self, job_id: int, changes: dict[str, str]) -> None:
        """Have the changes written soon. May be called from any thread of the job."""
        ...


metadata_writer: ContextVar[MetadataWriter] = ContextVar("roost.metadata_writer")


def encoded_changes(changes: object) -> dict[str, str]:
    """Return the JSON texts of a dict's values, by encoded key.

    :raises InvalidJobError: it is not a dict, or a key or value can't be stored.
    """
    if not isinstance(changes, dict):
        raise InvalidJobError(f"metadata must be a dict, not {type(changes).__name__}")
    try:
        # As one value first: what may stand in metadata is checked in one place.
        encode(changes)
        return {encode(key): encode(value) for key, value in changes.items()}
    except EncodingError as error:
        raise InvalidJobError(f"metadata can't be stored: {error}") from error


def progress_changes(value: object, total: object, message: object) -> dict[str, str]:
    """Return the changes that a call of `Job.progress` makes.

    :raises InvalidJobError: a number is not finite, or the message is not text.
    """
    _check_number("value", value)
    if total is not None:
        _check_number("total", total)
    if message is not None and not isinstance(message, str):
        raise InvalidJobError(f"message must be text or None, not {message!r}")
    try:
        return {PROGRESS: encode({"value": value, "total": total, "message": message})}
    except EncodingError as error:
        raise InvalidJobError(f"progress can't be stored: {error}") from error


def as_object(changes: Mapping[str, str]) -> str:
    """Return the JSON object of encoded keys and values."""
    return f"{{{','.join(f'{key}:{value}' for key, value in changes.items())}}}"


def _check_number(what: str, value: object) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not is_number or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidJobError(f"{what} of a progress must be a finite number, not {value!r}")
