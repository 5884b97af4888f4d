"""Rules for the source tree that no linter checks."""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import roost

ROOT = Path(__file__).parents[2]
SOURCES = {"src", "tests", "property_tests", "bench", "examples", "conftest.py", "dev.py"}

HOSTS = re.compile(r"pypi\.org|pythonhosted\.org|npmjs\.org|deb(ian)?\.debian\.org|crates\.io")
MACHINE = re.compile(r"(?<![\w.\]}>)*~-])/(home|root|Users|work|mnt|opt)/\w")
SLEEP = re.compile(r"\b(?:time|anyio|asyncio|trio)\.sleep\(\s*(?P<seconds>[\d._]+)")
LONGEST_POLL = 0.05
"""Seconds that a loop may sleep between two checks. A longer sleep needs a reason."""
REASON = re.compile(r"# sleeps: \w")
UNCAST = re.compile(r"\$\d+(?!\d|::)")
WHOLE_SERVER = re.compile(r"\b(pg_stat_activity|pg_locks)\b")
MOST_LINES = 600


def tracked() -> list[Path]:
    """Return the text files that git tracks, or all files of an unpacked source archive."""
    try:
        # git refuses a clone that belongs to another user unless it is listed as safe.
        names = subprocess.run(
            ["git", "-c", "safe.directory=*", "ls-files", "-z"],
            cwd=ROOT,
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")
        files = [ROOT / name for name in names if name]
    except (OSError, subprocess.CalledProcessError):
        tops = [top for top in ROOT.iterdir() if not top.name.startswith(".")]
        files = [file for top in tops for file in (top.rglob("*") if top.is_dir() else [top])]
    return sorted(file for file in files if file.is_file() and file.suffix not in {".png", ".pyc"})


TRACKED = tracked()
PYTHON = [
    file for file in TRACKED if file.suffix == ".py" and file.relative_to(ROOT).parts[0] in SOURCES
]
TESTS = [file for file in PYTHON if file.relative_to(ROOT).parts[0].endswith("tests")]


def lines(files: list[Path]) -> Iterator[tuple[str, str]]:
    """Yield each line, after its file, number and text for a message."""
    for file in files:
        text = file.read_text(encoding="utf-8", errors="replace")
        for number, line in enumerate(text.splitlines(), start=1):
            yield f"{file.relative_to(ROOT)}:{number}: {line.strip()[:120]}", line


def none(places: list[str], rule: str) -> None:
    """Fail with the rule and every place that breaks it."""
    if places:
        pytest.fail("\n".join([rule, *places]), pytrace=False)


def test_the_checks_find_the_source_files() -> None:
    assert ROOT / "src/roost/exceptions.py" in PYTHON
    assert [file.name for file in TRACKED if file.suffix == ".sql"]


def test_no_file_names_a_registry_or_a_folder_of_this_machine() -> None:
    named = [place for place, line in lines(TRACKED) if HOSTS.search(line) or MACHINE.search(line)]
    none(named, "other machines have other folders and registries: remove these")


def test_no_test_sleeps_without_a_reason() -> None:
    lucky = [place for place, line in lines(TESTS) if sleeps(line) and not REASON.search(line)]
    none(
        lucky,
        "wait for an event; if the test needs the time itself, add `# sleeps: why` to the line",
    )


def sleeps(line: str) -> bool:
    """Say whether the line sleeps longer than a poll."""
    return any(float(match["seconds"]) > LONGEST_POLL for match in SLEEP.finditer(line))


@pytest.mark.parametrize(
    "file", [file for file in TRACKED if file.suffix == ".sql"], ids=lambda file: file.name
)
def test_every_sql_parameter_has_a_cast(file: Path) -> None:
    code = [(place, line.split("--")[0]) for place, line in lines([file])]
    none([place for place, line in code if UNCAST.search(line)], "write $n::type")


def test_no_test_reads_or_ends_sessions_of_other_databases() -> None:
    # The tests that run side by side share one server; each has a database of its own there.
    wrong = [
        f"{file.relative_to(ROOT)}:{node.lineno}: {node.value.strip()[:120]}"
        for file in PYTHON
        if file.relative_to(ROOT).parts[:2] != ("tests", "checks")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and WHOLE_SERVER.search(node.value)
        and "select" in node.value
        and "datname" not in node.value
    ]
    none(wrong, "name the database (datname)")


def test_no_file_is_longer_than_600_lines() -> None:
    long = [
        f"{file.relative_to(ROOT)}: {count} lines"
        for file in PYTHON
        if (count := len(file.read_text(encoding="utf-8").splitlines())) > MOST_LINES
    ]
    none(long, f"no file has more than {MOST_LINES} lines")


def test_every_public_name_has_a_docstring() -> None:
    public = getattr(roost, "__all__", None) or [
        name
        for name, value in vars(roost).items()
        if name[0] != "_" and not inspect.ismodule(value)
    ]
    bare = [name for name in public for name in undocumented(name, getattr(roost, name))]
    none(bare, "add docstrings that say what these are for")


def undocumented(name: str, value: object) -> Iterator[str]:
    """Yield the name of the class or function, and of each method, that has no docstring."""
    if not inspect.isclass(value):
        if inspect.isroutine(value) and not value.__doc__:
            yield name
        return
    own = vars(value).get("__doc__") or ""
    if not own or own.startswith(f"{value.__name__}("):  # generated by dataclass
        yield name
    for method, function in vars(value).items():
        function = getattr(function, "__func__", function)
        if inspect.isfunction(function) and method[0] != "_" and not function.__doc__:
            yield f"{name}.{method}"


def test_a_missing_docstring_is_found() -> None:
    class Bare(Exception):  # noqa: N818
        def method(self) -> None: ...

    assert list(undocumented("Bare", Bare)) == ["Bare", "Bare.method"]
