"""A command imports its own module only, so that it starts fast; the list of commands is right."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import pytest
from typer.core import TyperGroup
from typer.main import get_command

from roost.cli.app import COMMANDS, app

COMMAND = """
import atexit, sys
atexit.register(lambda: print(*sys.modules, file=sys.stderr))
from roost.cli import main
main()
"""


def run(*arguments: str, **variables: str) -> tuple[str, set[str]]:
    """Return what a process of the command prints, and the modules that it has imported."""
    done = subprocess.run(
        [sys.executable, "-c", COMMAND, *arguments],
        env={**os.environ, "NO_COLOR": "1", "COLUMNS": "200", **variables},
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout, set(done.stderr.split())


def complete(words: str) -> tuple[list[str], set[str]]:
    number = len(words.split(" ")) - 1
    said, modules = run(_ROOST_COMPLETE="complete_bash", COMP_WORDS=words, COMP_CWORD=str(number))
    return said.splitlines(), modules


def root() -> TyperGroup:
    group = get_command(app)
    assert isinstance(group, TyperGroup)
    return group


def of_commands(modules: set[str]) -> set[str]:
    """Return the names of the commands whose modules are among these."""
    paths = {name: command.path.partition(":")[0] for name, command in COMMANDS.items()}
    return {name for name, path in paths.items() if f"roost.cli.{path}" in modules}


def test_help_version_and_completion_import_neither_a_command_nor_a_client_nor_a_worker() -> None:
    version, *modules = run("--version")
    assert version.startswith("roost ")
    text, *of_help = run("--help")
    names, *of_completion = complete("roost ")
    assert names == list(COMMANDS)
    assert "Run a worker until a signal stops it." in text
    for found in (*modules, *of_help, *of_completion):
        assert {name for name in found if name.startswith("roost")} >= {"roost", "roost.cli.app"}
        assert of_commands(found) == set()
        assert {"roost._client", "roost._worker", "roost._public", "anyio"} & found == set()


@pytest.mark.parametrize(
    ("arguments", "imported"),
    [(["run"], {"run"}), (["jobs", "list"], {"jobs"}), (["health"], {"health"})],
)
def test_a_command_does_not_import_the_others(arguments: list[str], imported: set[str]) -> None:
    text, modules = run(*arguments, "--help")
    assert f"Usage: roost {' '.join(arguments)} [OPTIONS]" in text
    assert of_commands(modules) == imported
    assert {"rich.live", "watchfiles", "pydantic_settings", "asyncpg"} & modules == set()


def test_the_options_of_a_command_are_completed() -> None:
    assert complete("roost run --shut")[0] == ["--shutdown-timeout"]
    assert complete("roost jobs li")[0] == ["list"]


def test_the_list_of_commands_says_what_their_help_says() -> None:
    commands: Mapping[str, Any] = root().commands
    first = {name: command.help.split("\n\n")[0].split() for name, command in commands.items()}
    assert first == {name: command.help.split() for name, command in COMMANDS.items()}
    assert list(first) == list(COMMANDS)


def test_a_module_ends_the_help_of_its_command_with_its_examples() -> None:
    for name in ("run", "dev", "doctor", "bench", "health", "top", "status", "workers"):
        assert f"roost {name}" in (root().commands[name].epilog or "")
