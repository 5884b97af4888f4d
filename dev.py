#!/usr/bin/env python3
"""The project's commands, for a machine that has only Python.

The first run creates a virtual environment in ``.venv-dev`` from ``dev.lock``, in which every file
has a hash. It uses uv if that is installed, else venv and pip. Later runs compare a stamp and start
at once. The ``.venv`` of uv or of an editor is never changed.
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
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent
HOME = ROOT / ".venv-dev"

USAGE = """\
python3 dev.py demo [ARGUMENTS]   run `roost demo ARGUMENTS` on an embedded Postgres
python3 dev.py test [ARGUMENTS]   run the checks and tests: `pytest ARGUMENTS`, in parallel unless
                                  the arguments choose (-n 0), or need one process (--pdb, -s)
python3 dev.py docs [ARGUMENTS]   build the documentation into site/
python3 dev.py lock [ARGUMENTS]   write dev.lock and docs.lock from pyproject.toml, with uv;
                                  --upgrade to take newer versions
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment for one lock file and one Python version.

    Each version keeps its own, so a change of version and back rebuilds nothing.
    """

    lock: Path
    with_roost: bool

    @property
    def folder(self) -> Path:
        """Its folder."""
        python = f"{sys.implementation.name}-{sys.version_info[0]}.{sys.version_info[1]}"
        return HOME / f"{self.lock.stem}-{python}"

    @property
    def programs(self) -> Path:
        """The folder of its programs."""
        return self.folder / ("Scripts" if os.name == "nt" else "bin")

    @property
    def python(self) -> Path:
        """Its Python. It may be missing: after a Python was removed, this is a dead link."""
        return self.programs / ("python.exe" if os.name == "nt" else "python")

    @property
    def stamp(self) -> Path:
        """A file with the hashes of its inputs, written when it is complete."""
        return self.folder / "roost-dev-stamp"


DEV = Environment(ROOT / "dev.lock", with_roost=True)
DOCS = Environment(ROOT / "docs.lock", with_roost=False)


def main() -> int:
    """Run the command of the arguments. Returns only where it can't replace the process."""
    command, arguments = (sys.argv[1] if len(sys.argv) > 1 else ""), sys.argv[2:]
    if command == "demo":
        return execute(DEV, "roost", "demo", *arguments)
    if command == "test":
        os.chdir(ROOT)  # pytest uses `testpaths` only in the root
        return execute(DEV, "pytest", *in_parallel(arguments), *arguments)
    if command == "docs":
        os.chdir(ROOT)
        return execute(DOCS, "zensical", "build", "--clean", "--strict", *arguments)
    if command == "lock":
        return lock(arguments)
    asked = command in {"-h", "--help", ""}
    print(USAGE, end="", file=sys.stdout if asked else sys.stderr)
    return 0 if asked else 2


def in_parallel(arguments: list[str]) -> list[str]:
    """Return pytest's options for several processes, or none if the arguments choose themselves."""
    words = [*arguments, *shlex.split(os.environ.get("PYTEST_ADDOPTS", ""))]
    # -n, -p and --dist choose; a debugger and -s (or -xvs) need the terminal; the rest run no test.
    alone = re.compile(
        r"-[np].*|-[qvxl]*[sh]|--(numprocesses|dist|pdb|trace|capture=no|co\b|collect-only|help"
        r"|version|fixtures|markers).*"
    )
    if any(alone.fullmatch(word) for word in words):
        return []
    # Some tests are long (mypy, killed processes) and thousands are short, so idle processes take
    # tests from others. With more than 8 processes, the one Postgres server is the limit.
    return ["-n", "auto", "--maxprocesses", "8", "--dist", "worksteal"]


def execute(env: Environment, program: str, *arguments: str) -> int:
    """Replace this process by a program of the environment, so that it gets all signals."""
    set_up(env)
    path = str(env.programs / program)
    os.environ["VIRTUAL_ENV"] = str(env.folder)
    # The tests start hundreds of processes. Without bytecode each would compile all of Roost.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    os.environ["PATH"] = f"{env.programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
    if os.name != "nt":
        os.execv(path, [path, *arguments])
    return subprocess.call([path, *arguments])  # Windows' exec would return to the shell at once


def set_up(env: Environment) -> None:
    """Build the environment from the lock and the project, unless its stamp is up to date.

    The stamp is written last: after an interrupted set-up there is none, and the next run starts
    again.
    """
    recipe = (env.lock.read_bytes(), Path(__file__).read_bytes())
    packages = digest(*recipe, sys.version, sys.base_prefix, str(env.folder))
    project = digest((ROOT / "pyproject.toml").read_bytes()) if env.with_roost else "none"
    if stamped(env) == [packages, project]:
        return
    try:
        with one_at_a_time():
            before = stamped(env)
            if before == [packages, project]:
                return
            if before[:1] != [packages] or not reinstall_roost(env):
                install_everything(env)
            env.stamp.write_text(f"{packages}\n{project}\n")
    except subprocess.CalledProcessError as error:
        sys.exit(f"dev.py: the set-up failed at: {shlex.join(map(str, error.cmd))}")
    except KeyboardInterrupt:
        sys.exit(130)  # the next run starts again
    except PermissionError as error:
        sys.exit(f"dev.py: {error}. Does the checkout, or its .venv-dev, belong to another user?")


def stamped(env: Environment) -> list[str]:
    """Return the hashes of the last complete set-up; empty if there was none."""
    if not (env.python.exists() and env.stamp.exists()):
        return []
    return env.stamp.read_text().split()


def digest(*parts: bytes | str) -> str:
    """Return one hash over all parts."""
    texts = [part.encode() if isinstance(part, str) else part for part in parts]
    return hashlib.sha256(b"\0".join(texts)).hexdigest()


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Let one process at a time set up. The kernel releases the lock of a killed process."""
    HOME.mkdir(exist_ok=True)
    if os.name == "nt":
        yield
        return
    import fcntl

    with (HOME / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def install_everything(env: Environment) -> None:
    """Build the environment with uv, or with venv and pip if uv is missing or fails."""
    uv = shutil.which("uv")
    say(f"Setting up {env.folder.relative_to(ROOT)} with {'uv' if uv else 'venv and pip'} ...")
    if uv:
        try:
            build(env, uv)
        except subprocess.CalledProcessError:
            say("uv could not do it; trying venv and pip ...")
        else:
            return
    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        sys.exit(
            "dev.py: this Python has no venv or ensurepip. On Debian and Ubuntu: "
            "apt install python3-venv. Or install uv."
        )
    build(env, None)


def build(env: Environment, uv: str | None) -> None:
    """Create an empty environment, and install the locked packages and the project."""
    python = getattr(sys, "_base_executable", sys.executable)  # not that of a venv
    shutil.rmtree(env.folder, ignore_errors=True)
    if uv:
        call(uv, "venv", "--quiet", "--python", python, env.folder)
    else:
        call(python, "-I", "-m", "venv", env.folder)
    install(env, uv, "--require-hashes", "-r", env.lock)
    if env.with_roost:
        install_roost(env, uv)


def install_roost(env: Environment, uv: str | None) -> None:
    """Install Roost itself, editable, with the build tools of the lock."""
    install(env, uv, "--no-deps", "--no-build-isolation", "-e", ROOT)


def reinstall_roost(env: Environment) -> bool:
    """Install Roost again, and return whether that worked. The uv of the first time may be gone."""
    env.stamp.unlink()
    try:
        install_roost(env, shutil.which("uv"))
    except subprocess.CalledProcessError:
        return False
    return True


def install(env: Environment, uv: str | None, *what: str | Path) -> None:
    """Install packages into the environment."""
    if uv:
        call(uv, "pip", "install", "--quiet", "--python", env.python, *what)
    else:
        pip = ("-I", "-m", "pip", "--disable-pip-version-check", "install", "--quiet")
        call(env.python, *pip, *what)


def lock(arguments: list[str]) -> int:
    """Write both locks, for every platform: dev.lock with all extras, and docs.lock."""
    uv = shutil.which("uv")
    if uv is None:
        sys.exit("dev.py: making the locks needs uv on PATH; using them does not.")
    options = [
        *("--universal", "--python-version", "3.11", "--generate-hashes", "--quiet"),
        *("--no-annotate", "--no-header", "--no-emit-index-url", "--no-emit-find-links"),
    ]
    os.chdir(ROOT)
    wanted = {DEV: ["pyproject.toml", "--all-extras", "--group", "dev"], DOCS: ["--group", "docs"]}
    for env, what in wanted.items():
        call(uv, "pip", "compile", *what, *options, *arguments, "--output-file", env.lock.name)
        if "://" in env.lock.read_text():
            sys.exit(f"dev.py: {env.lock.name} contains a URL: remove it before the commit.")
    return 0


def call(*command: str | Path) -> None:
    """Run a step of the set-up, and raise if it fails."""
    # With PIP_USER set by the user, pip would refuse a virtual environment.
    environment = {**os.environ, "PIP_USER": "0"}
    subprocess.run(command, check=True, stdin=subprocess.DEVNULL, env=environment)


def say(text: str) -> None:
    """Print to stderr, apart from the output of the command itself."""
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
