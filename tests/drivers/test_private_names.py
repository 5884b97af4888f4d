"""The drivers use these undocumented names of psycopg, and no others."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import psycopg
import psycopg.conninfo
import pytest

from roost._drivers.psycopg_anyio import connection
from roost._drivers.psycopg_common import private_names
from roost.exceptions import RoostError

FOLDER = Path(private_names.__file__).parents[1]
DOCUMENTED = {"conninfo_to_dict", "make_conninfo"}


def trees() -> Iterator[ast.AST]:
    for path in [*FOLDER.glob("psycopg_*/*.py"), FOLDER / "borrowed/psycopg.py"]:
        yield ast.parse(path.read_text(encoding="utf-8"))


def is_private(name: str) -> bool:
    return name.startswith("_") and not name.startswith("__")


def psycopgs_private_names(server_dsn: str) -> set[str]:
    with psycopg.connect(server_dsn) as connected:
        instance = {*vars(connected)}
    classes = (psycopg.AsyncConnection, psycopg.AsyncTransaction, psycopg.AsyncRawCursor)
    names = instance.union(*(dir(each) for each in classes), vars(psycopg), vars(psycopg.errors))
    return {name for name in names if is_private(name)}


def test_the_private_names_in_use_are_those_that_are_checked(server_dsn: str) -> None:
    used = {
        node.attr for tree in trees() for node in ast.walk(tree) if isinstance(node, ast.Attribute)
    }
    assert used & psycopgs_private_names(server_dsn) == {
        "_adapters",
        "_execute_gen",
        "_pipeline",
        "_should_cancel",
        "_WaitTimeout",
    }
    checked = {
        *private_names.CONNECTION_ATTRIBUTES,
        *private_names.CONNECTION_METHODS,
        *private_names.CURSOR_METHODS,
        *private_names.ERRORS,
    }
    private = {"_adapters", "_execute_gen", "_pipeline", "_should_cancel", "_WaitTimeout"}
    assert checked == {*private, "lock", "wait"}


def test_private_modules_and_functions_are_those_that_are_checked() -> None:
    imports = [
        node
        for tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("psycopg")
    ]
    assert imports
    for node in imports:
        assert not any(is_private(part) for part in (node.module or "").split("."))
        assert not any(is_private(alias.name) for alias in node.names)
    functions = {
        alias.name for node in imports if node.module == "psycopg.conninfo" for alias in node.names
    }
    assert functions - DOCUMENTED == {*private_names.FUNCTIONS}


def test_the_subclass_hides_nothing_of_psycopgs_by_accident() -> None:
    meant = {"__init__", "__doc__", "__module__", "__parameters__", "__orig_bases__"}
    meant |= {"connect", "wait", "cancel_safe", "commit", "rollback", "transaction", "close"}
    ours = vars(connection.AnyioConnection)
    assert {name for name in ours if hasattr(psycopg.AsyncConnection, name)} - meant <= {
        "__firstlineno__",
        "__static_attributes__",
    }


def test_a_missing_name_is_reported_with_psycopgs_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delattr(psycopg.conninfo, "conninfo_attempts")
    private_names.check.cache_clear()
    with pytest.raises(RoostError, match=rf"psycopg {psycopg.__version__}.*conninfo_attempts"):
        private_names.check()
    monkeypatch.undo()
    private_names.check()


def test_a_changed_wait_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(self: object, gen: object, novelty: int) -> None: ...

    monkeypatch.setattr(psycopg.AsyncConnection, "wait", wait)
    private_names.check.cache_clear()
    with pytest.raises(RoostError, match=r"wait\(novelty\)"):
        private_names.check()
    monkeypatch.undo()
    private_names.check()


def test_a_connection_without_a_lock_is_reported() -> None:
    with pytest.raises(RoostError, match="lock"):
        private_names.check_connection(object())  # type: ignore[arg-type]  # stands for a changed one
