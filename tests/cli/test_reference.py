"""The command's page in the documentation is generated from its help.

``ROOST_WRITE_DOCS=1 python3 dev.py test tests/cli/test_reference.py`` writes it anew.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "reference" / "cli.md"
HEAD = """\
# The command

`roost`, or `python -m roost`. This page is the command's own help;
[Run a worker](../how-to/run-a-worker.md) says how to use it.

"""


def test_the_page_of_the_command_is_its_help() -> None:
    page = HEAD + help_as_markdown()
    if os.environ.get("ROOST_WRITE_DOCS"):
        PAGE.write_text(page, encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page, __doc__


def help_as_markdown() -> str:
    """Return the help of all commands, without the title."""
    done = subprocess.run(
        [sys.executable, "-m", "typer", "roost.cli.app", "utils", "docs", "--name", "roost"],
        env={**os.environ, "PYTHONUTF8": "1", "NO_COLOR": "1", "COLUMNS": "200"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=True,
    )
    text = done.stdout.partition("\n")[2].strip()
    # A usage line is a pattern, not a command to be tried.
    return text.replace("```console\n", "```text\n") + "\n"
