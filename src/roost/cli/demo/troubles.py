"""Files that really can't be indexed, beside the tree: what goes wrong in the demo is not acted.

All three are copies of one of Roost's own modules. One is cut off in the middle of a statement, one
is stored as UTF-16, and one is still being written when its job runs for the first time.
"""

from __future__ import annotations

import ast
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import attrs

from roost import exceptions

ORIGINAL = Path(exceptions.__file__)


@attrs.frozen
class Troubles:
    """The paths of the three files."""

    cut_off: Path
    utf16: Path
    late: Path

    def finish_writing(self) -> None:
        """Write the rest of the late file."""
        self.late.write_bytes(ORIGINAL.read_bytes())


@contextmanager
def make_troubles() -> Iterator[Troubles]:
    """Make the files in a temporary folder, removed afterwards."""
    source = ORIGINAL.read_bytes()
    part = _unparsable_part(source)
    with tempfile.TemporaryDirectory(prefix="roost-demo-") as folder:
        troubles = Troubles(
            cut_off=Path(folder, "cut_off.py"),
            utf16=Path(folder, "utf16.txt"),
            late=Path(folder, "late.py"),
        )
        troubles.cut_off.write_bytes(part)
        troubles.utf16.write_bytes(source.decode().encode("utf-16"))
        troubles.late.write_bytes(part)
        yield troubles


def _unparsable_part(source: bytes) -> bytes:
    """Return a first half of ``source`` that Python can't parse."""
    for length in range(len(source) // 2, len(source)):
        try:
            ast.parse(source[:length])
        except (SyntaxError, ValueError):
            return source[:length]
    raise AssertionError(f"every part of {ORIGINAL} can be parsed")
