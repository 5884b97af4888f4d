#!/usr/bin/env python3
"""The project's two commands, for a machine that has only Python.

The first run puts a virtual environment into ``.venv-dev``, from ``dev.lock``, whose every file has
a hash, with uv if it is there and with venv and pip if not. Later runs compare a stamp and start at
once. The ``.venv`` of uv or of an editor is never touched.
"""

import sys

if sys.version_info < (3, 11):  # noqa: UP036  (for a clear message; old Pythons parse this file)
    sys.exit(f"Roost needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}.")

import hashlib
import importlib.util
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent
LOCK = ROOT / "dev.lock"
HOME = ROOT / ".venv-dev"
# One environment a Python version, so that going from one to another and back rebuilds nothing.
ENV = HOME / f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
BIN = ENV / ("Scripts" if os.name == "nt" else "bin")
STAMP = ENV / "roost-dev-stamp"

USAGE = """\
python3 dev.py demo [ARGUMENTS]   run `roost demo ARGUMENTS` on an embedded Postgres
python3 dev.py test [ARGUMENTS]   run the checks and tests: `pytest ARGUMENTS`, in parallel unless
                                  the arguments choose (-n 0), or need one process (--pdb, -s)
python3 dev.py lock [ARGUMENTS]   make dev.lock again from pyproject.toml, with uv; --upgrade to
                                  take newer versions
"""


def main() -> int:
    """Run the command that the arguments name; returns only where it can't replace the process."""
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command == "demo":
        set_up()
        return execute("roost", "demo", *arguments)
    if command == "test":
        set_up()
        os.chdir(ROOT)  # pytest looks at `testpaths` only in the root
        return execute("pytest", *in_parallel(arguments), *arguments)
    if command == "lock":
        return lock(arguments)
    asked = command in {"-h", "--help", ""}
    print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def in_parallel(arguments: list[str]) -> list[str]:
    """Return pytest's options for several processes, none if the arguments speak about that."""
    words = [*arguments, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    # -n, -p and --dist choose; a debugger and -s (or -xvs) need the terminal; the rest only show.
    alone = re.compile(
        r"-[np].*|-[qvxl]*[sh]|--(numprocesses|dist|pdb|trace|capture=no|co\b|collect-only|help"
        r"|version|fixtures|markers).*"
    )
    if any(alone.fullmatch(word) for word in words):
        return []
    # Long tests (mypy, the chaos of killed processes) stand beside thousands of short ones, so idle
    # processes take over what is left. Above 8 the one Postgres cluster gives no more.
    return ["-n", "auto", "--maxprocesses", "8", "--dist", "worksteal"]


def execute(program: str, *arguments: str) -> int:
    """Become a program of the environment, so that signals and the exit code are its own."""
    path = str(BIN / program)
    os.environ["VIRTUAL_ENV"] = str(ENV)
    os.environ["PATH"] = f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if os.name != "nt":
        os.execv(path, [path, *arguments])
    return subprocess.call([path, *arguments])  # Windows' exec would return to the shell at once


def set_up() -> None:
    """Make the environment what the lock and the project say, if its stamp doesn't say so already.

    The stamp is written last: an interrupted set-up leaves none, and the next run starts over.
    """
    locked = digest(LOCK.read_bytes(), sys.version, sys.base_prefix, str(ENV))
    project = digest((ROOT / "pyproject.toml").read_bytes())
    if stamped() == [locked, project]:
        return
    try:
        with one_at_a_time():
            if stamped() == [locked, project]:
                return
            if stamped()[:1] != [locked] or not reinstall_project():
                install_everything()
            STAMP.write_text(f"{locked}\n{project}\n")
    except subprocess.CalledProcessError as error:
        sys.exit(f"dev.py: the set-up failed: {shlex.join(map(str, error.cmd))}")
    except PermissionError as error:
        sys.exit(f"dev.py: {error}. Does the checkout, or its .venv-dev, belong to another user?")


def stamped() -> list[str]:
    """Return what the last complete set-up was made from; empty if there was none."""
    python = BIN / ("python.exe" if os.name == "nt" else "python")
    if not (python.exists() and STAMP.exists()):  # a Python that was removed leaves a dead link
        return []
    return STAMP.read_text().split()


def digest(*parts: bytes | str) -> str:
    """Return one hash of all parts."""
    texts = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one process set up while the others wait; the kernel frees the lock of a killed one."""
    HOME.mkdir(exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    with (HOME / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install_everything() -> None:
    """Build the environment anew, with uv or, where that is missing or fails, with venv and pip."""
    uv = shutil.which("uv")
    say(f"Setting up {ENV.relative_to(ROOT)} with {'uv' if uv else 'venv and pip'}, once ...")
    if uv:
        try:
            return build(uv)
        except subprocess.CalledProcessError:
            say("uv could not do it; trying venv and pip ...")
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            "dev.py: this Python has no venv or ensurepip. On Debian and Ubuntu: "
            "apt install python3-venv. Or install uv."
        )
    return build(None)


def build(uv: str | None) -> None:
    """Make an empty environment and install the locked packages and the project."""
    python = getattr(sys, "_base_executable", sys.executable)  # the real one if this is a venv's
    shutil.rmtree(ENV, ignore_errors=True)
    if uv:
        call(uv, "venv", "--quiet", "--python", python, ENV)
    else:
        call(python, "-I", "-m", "venv", ENV)
    call(*installer(uv), "--require-hashes", "-r", LOCK)
    install_project(uv)


def install_project(uv: str | None) -> None:
    """Install Roost itself, editable, with the build tools that the lock has brought."""
    call(*installer(uv), "--no-deps", "--no-build-isolation", "-e", ROOT)


def reinstall_project() -> bool:
    """Install Roost again and say whether that worked: uv, which made the rest, may be gone."""
    STAMP.unlink()
    try:
        install_project(shutil.which("uv"))
    except subprocess.CalledProcessError:
        return False
    return True


def installer(uv: str | None) -> list[str | Path]:
    """Return the command that installs into the environment."""
    python = BIN / "python"
    if uv:
        return [uv, "pip", "install", "--quiet", "--python", python]
    return [python, "-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]


def lock(arguments: list[str]) -> int:
    """Write dev.lock: every package of every extra and the dev group, on every platform."""
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("dev.py: making the lock needs uv on PATH; using it does not.")
    options = (
        "--all-extras --group dev --universal --python-version 3.11 --generate-hashes --quiet "
        "--no-annotate --no-header --no-emit-index-url --no-emit-find-links --output-file dev.lock"
    )
    os.chdir(ROOT)
    call(uv, "pip", "compile", "pyproject.toml", *options.split(), *arguments)
    if "://" in LOCK.read_text():
        sys.exit("dev.py: dev.lock names a host; take that out before it is committed.")
    return 0


def call(*command: str | Path) -> None:
    """Run a step of the set-up and raise if it fails."""
    # PIP_USER in somebody's environment would make pip refuse a virtual environment.
    environment = {**os.environ, "PIP_USER": "0"}
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment)


def say(text: str) -> None:
    """Tell the user, apart from the output of the command itself."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
