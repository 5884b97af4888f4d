"""Which files are indexed: a folder of the user's, or the project's own sources and docs."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path

import attrs

import roost
from roost.exceptions import InvalidSettingError

LARGEST = 16 * 2**20
"""Bytes of the largest file that is indexed: a handler holds one in memory."""


@attrs.frozen
class File:
    """One file as it was when it was found."""

    path: str
    size: int
    changed_ns: int

    @property
    def folder(self) -> str:
        """The path of the folder that it is in."""
        return os.path.dirname(self.path)  # noqa: PTH120  (a plain string: a job's argument)

    def is_unchanged(self) -> bool:
        """Say whether it is still as it was found."""
        return self == look_at(self.path)


@attrs.frozen
class Tree:
    """The files to index, and how many were left out: too large, or their name is no text."""

    shown_as: str
    files: tuple[File, ...]
    left_out: int

    def by_folder(self) -> Iterator[tuple[str, list[File]]]:
        """Yield each folder that has files, with them."""
        for folder, files in groupby(self.files, key=lambda file: file.folder):
            yield folder, list(files)


def find_tree(folder: Path | None) -> Tree:
    """Return the files below ``folder``, or of this project; hidden folders are left out.

    :raises InvalidSettingError: there is no such folder, or no file in it.
    """
    if folder is not None and not folder.is_dir():
        raise InvalidSettingError(f"{folder} is not a folder")
    folders = [folder.resolve()] if folder is not None else _own_folders()
    found = sorted((path for top in folders for path in _walk(top)), key=os.path.split)
    files = [file for path in found if (file := look_at(path)) is not None]
    if not files:
        raise InvalidSettingError(f"there is no file to index in {folders[0]}")
    return Tree(", ".join(map(str, folders)), tuple(files), left_out=len(found) - len(files))


def look_at(path: str) -> File | None:
    """Return a file as it is now; ``None``: it is gone, or not one to index."""
    try:
        path.encode()
        status = os.lstat(path)
    except (OSError, UnicodeError):
        return None
    if not stat.S_ISREG(status.st_mode) or status.st_size > LARGEST:
        return None
    return File(path, status.st_size, status.st_mtime_ns)


def _own_folders() -> list[Path]:
    """Return the project's folders in a checkout, else those of the installed package."""
    package = Path(roost.__file__).parent
    root = package.parent.parent
    if package.parent.name == "src" and (root / "pyproject.toml").is_file():
        folders = [root / name for name in ("src", "docs", "tests")]
        return [folder for folder in folders if folder.is_dir()]
    return [package]


def _walk(top: Path) -> Iterator[str]:
    for folder, below, names in os.walk(top):
        below[:] = [name for name in below if name[0] != "." and name != "__pycache__"]
        for name in names:
            path = os.path.join(folder, name)  # noqa: PTH118  (a plain string: a job's argument)
            if not os.path.islink(path):  # noqa: PTH114
                yield path
