"""Find the database of a ``roost dev`` that runs in this folder, or in one above it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DATA_DIR = Path(".roost/pg")
"""The data of the embedded Postgres, below the folder in which `roost dev` runs."""
ROOTS = (".git", ".hg")
"""What only the topmost folder of a project contains."""


def find_dev_dsn(folder: Path | None = None) -> tuple[str, Path] | None:
    """Return the DSN and the data folder of the nearest `roost dev` that runs.

    :param folder: where to begin; ``None``: the current folder.
    """
    for data_dir in _candidates(folder or Path.cwd()):
        from roost.embedded.running import find_running  # only if there is a folder to look into

        if dsn := find_running(data_dir):
            return dsn, data_dir
    return None


def where_searched(folder: Path | None = None) -> str:
    """Say where `find_dev_dsn` has searched, for an error."""
    start = folder or Path.cwd()
    last = list(_project(start))[-1]
    up_to = f" up to {last}" if last != start else ""
    return f"in {start}{up_to}"


def _candidates(start: Path) -> Iterator[Path]:
    for folder in _project(start):
        if (data_dir := folder / DATA_DIR).is_dir():
            yield data_dir


def _project(start: Path) -> Iterator[Path]:
    """Yield the folders from ``start`` up to the project's root, or to the file system's."""
    for folder in (start, *start.parents):
        yield folder
        if any((folder / name).exists() for name in ROOTS):
            return
