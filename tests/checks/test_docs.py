"""The documentation's programs run, and the command line accepts its commands.

The Python blocks of a page are one program, in their order. A page whose blocks say ``ROOST_DSN``
gets a database of its own under that name. ``<!-- not run: why -->`` above a block leaves it out.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import attrs
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<note><!-- not run: [^>]+-->\n+)?"
    r"^(?P<indent>[ ]*)```(?P<language>\w+)[^\n]*\n(?P<body>.*?)^(?P=indent)```[ ]*$",
    re.MULTILINE | re.DOTALL,
)
LINK = re.compile(r"\[[^\]]*\]\((?!\w+:|#)(?P<path>[^)#\s]+)[^)]*\)")
PREFIX = re.compile(r"^\s*(\$ )?(\w+=\S+ )*(uv run )?")
OPERATOR = re.compile(r" (?:[|&>]|2>)")
COMMAND = importlib.util.find_spec("roost.cli")
SECONDS = 120
"""A page's program may start an embedded Postgres on a machine that does other things too."""

READ_ONLY = """
import json, sys
from roost.cli import main
wrong = []
for words in json.loads(sys.argv[1]):
    sys.argv = ["roost", *words, "--help"]
    try:
        main()
    except SystemExit as stop:
        if stop.code:
            wrong.append(words)
if wrong:
    sys.exit(f"roost does not take: {wrong}")
"""


@attrs.frozen
class Block:
    language: str
    code: str
    line: int


def blocks(page: Path, *languages: str) -> list[Block]:
    """Return the page's blocks in these languages, each with the number of its first line."""
    text = page.read_text(encoding="utf-8")
    found = []
    for match in BLOCK.finditer(text):
        if match["language"] not in languages or match["note"]:
            continue
        indent = len(match["indent"])
        code = "".join(line[indent:] or "\n" for line in match["body"].splitlines(keepends=True))
        found.append(Block(match["language"], code, text.count("\n", 0, match.start("body"))))
    return found


def program(page: Path) -> str:
    """Return the page's blocks as one program whose line numbers are the page's."""
    code = ""
    for block in blocks(page, "python"):
        code += "\n" * (block.line - code.count("\n")) + block.code
    return code


def commands(page: Path) -> list[list[str]]:
    """Return the words after ``roost`` of each command of the page's shell blocks."""
    found = []
    for block in blocks(page, "bash", "sh", "shell", "console"):
        for line in block.code.replace("\\\n", " ").splitlines():
            command = OPERATOR.split(PREFIX.sub("", line))[0]
            words = shlex.split(command, comments=True)
            if words[:1] == ["roost"]:
                found.append(words[1:])
            elif words[:3] == ["python3", "dev.py", "demo"]:
                found.append(words[2:])
    return found


def named(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("page", [page for page in PAGES if blocks(page, "python")], ids=named)
def test_the_python_of_a_page_runs(
    page: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    code = program(page)
    environment = {**os.environ, "PYTHONUNBUFFERED": "1"}
    if "ROOST_DSN" in code:
        environment["ROOST_DSN"] = request.getfixturevalue("dsn")
    # Not under the page's own name, which may be that of a module that the page imports.
    file = tmp_path / f"page_{page.stem.replace('-', '_')}.py"
    file.write_text(code, encoding="utf-8")
    run(page, [sys.executable, "-W", "error", str(file)], tmp_path, environment)


@pytest.mark.skipif(not (COMMAND and COMMAND.origin), reason="there is no command yet")
@pytest.mark.parametrize("page", [page for page in PAGES if commands(page)], ids=named)
def test_the_command_line_knows_the_commands_of_a_page(page: Path, tmp_path: Path) -> None:
    words = json.dumps(commands(page))
    run(page, [sys.executable, "-c", READ_ONLY, words], tmp_path, dict(os.environ))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [match["path"] for match in LINK.finditer(page.read_text(encoding="utf-8"))]
    assert [link for link in links if not (page.parent / link).exists()] == []


def run(page: Path, command: list[str], folder: Path, environment: dict[str, str]) -> None:
    """Run a program of the page; fail with its output if it fails or takes too long."""
    try:
        done = subprocess.run(
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        pytest.fail(f"{named(page)} ran for {SECONDS} s:\n{late.stdout!r}", pytrace=False)
    if done.returncode:
        pytest.fail(f"{named(page)}:\n{done.stdout}", pytrace=False)


def test_blocks_keep_their_lines_and_notes_leave_them_out(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(
        "# A\n\n```python\na = 1\n```\n\n<!-- not run: shows an error -->\n```python\n1 / 0\n```\n"
        '\n1. item\n\n   ```python title="b.py"\n   if a:\n       b = 2\n   ```\n'
        "\n```bash\n$ FOO=1 roost run -m app \\\n    -q mail  # why\nuv run roost demo | cat\n```\n"
    )
    assert program(page).splitlines()[3] == "a = 1"
    assert program(page).splitlines()[14:16] == ["if a:", "    b = 2"]
    assert "1 / 0" not in program(page)
    assert commands(page) == [["run", "-m", "app", "-q", "mail"], ["demo"]]
