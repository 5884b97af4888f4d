"""The architecture page names files and functions that exist, and every file of the worker."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs/explanation/architecture.md"
SOURCE = ROOT / "src/roost"
WORKER = SOURCE / "_worker"
CODE = re.compile(r"`([^`\n]+)`")
PATH = re.compile(r"[\w/*]+\.(?:py|sql)")
FUNCTION = re.compile(r"([A-Z]\w+\.\w+)|(\w+)\(\)")


def tables() -> list[str]:
    """Return the rows of the page's tables."""
    return [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("|")]


def found(path: str) -> list[Path]:
    """Return the files of a path on the page: it begins at the root, at `roost` or at `_worker`."""
    return [file for folder in (ROOT, SOURCE, WORKER) for file in folder.glob(path)]


def definitions(path: Path) -> set[str]:
    """Return the names of a module's functions, and of its methods as `Class.name`."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ClassDef):
            names |= {
                f"{node.name}.{item.name}"
                for item in node.body
                if isinstance(item, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
    return names


def test_the_page_names_files_that_exist() -> None:
    paths = {code for row in tables() for code in CODE.findall(row) if PATH.fullmatch(code)}
    assert [path for path in sorted(paths) if not found(path)] == []


def test_the_page_names_functions_that_exist() -> None:
    missing = []
    for row in tables():
        codes = CODE.findall(row)
        files = [file for code in codes if code.endswith(".py") for file in found(code)]
        known = {name for file in files for name in definitions(file)}
        names = [code.removesuffix("()") for code in codes if FUNCTION.fullmatch(code)]
        missing += [name for name in names if files and name not in known]
    assert missing == []


def test_the_page_has_every_file_of_the_worker() -> None:
    text = PAGE.read_text(encoding="utf-8")
    files = {
        file.relative_to(WORKER).as_posix()
        for file in WORKER.rglob("*.py")
        if file.stem != "__init__"
    }
    assert [file for file in sorted(files) if f"`{file}`" not in text] == []
