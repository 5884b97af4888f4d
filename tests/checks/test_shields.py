"""Every shield in the package is made by `shielded`, which requires a finite deadline."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src/roost"
HELPER = "_drivers/shield.py"
"""The only file that may shield."""
TIME_LIMITS = frozenset({"move_on_after", "fail_after"})
"""Functions of anyio's whose second positional argument is ``shield``."""


def name_of(node: ast.expr) -> str:
    """Return the last part of a dotted name, or an empty string."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def is_infinity(node: ast.expr) -> bool:
    """Say whether the expression is written as infinity: ``math.inf``, ``float("inf")``, 1e999."""
    if isinstance(node, ast.UnaryOp):
        return is_infinity(node.operand)
    if isinstance(node, ast.Call) and name_of(node.func) == "float" and node.args:
        node = node.args[0]
        return isinstance(node, ast.Constant) and "inf" in str(node.value).lower()
    if isinstance(node, ast.Constant):
        return node.value == float("inf")
    return name_of(node) in {"inf", "infinity"}


def violations(source: str) -> Iterator[tuple[int, str]]:
    """Yield line and reason of every shield that isn't made by a correct call of ``shielded``."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call):
            if any(keyword.arg == "shield" for keyword in node.keywords):
                yield node.lineno, "has a shield= argument"
            if name_of(node.func) in TIME_LIMITS and len(node.args) > 1:
                yield node.lineno, "passes shield as a positional argument"
            if name_of(node.func) == "shielded":
                arguments = [*node.args, *(keyword.value for keyword in node.keywords)]
                if len(arguments) != 1:
                    yield node.lineno, "does not call shielded with exactly one argument"
                elif is_infinity(arguments[0]):
                    yield node.lineno, "gives shielded no end"
        elif isinstance(node, (ast.Assign, ast.AugAssign, ast.AnnAssign)):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            if any(
                isinstance(part, ast.Attribute) and part.attr == "shield"
                for target in targets
                for part in ast.walk(target)
            ):
                yield node.lineno, "assigns to .shield"


def test_only_the_helper_shields_and_always_with_a_deadline() -> None:
    wrong = [
        f"{file.relative_to(ROOT)}:{line}: {reason}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if file.relative_to(PACKAGE).as_posix() != HELPER
        for line, reason in violations(file.read_text(encoding="utf-8"))
    ]
    if wrong:
        pytest.fail("\n".join(["write `with shielded(seconds):`", *wrong]), pytrace=False)


@pytest.mark.parametrize(
    "planted",
    [
        "with anyio.move_on_after(5, shield=True): ...",
        "with anyio.move_on_after(5, True): ...",
        "with anyio.fail_after(5, True): ...",
        "scope = anyio.CancelScope(shield=must_finish)",
        "scope.shield = must_finish",
        "self._scope.shield, other = True, 1",
        "with shielded(): ...",
        "with shielded(5, 6): ...",
        "with shielded(math.inf): ...",
        "with shield.shielded(seconds=inf): ...",
        "with shielded(float('inf')): ...",
        "with shielded(1e999): ...",
    ],
)
def test_a_planted_violation_is_found(planted: str) -> None:
    assert [line for line, _ in violations(planted)] == [1]


def test_correct_code_is_accepted() -> None:
    source = (
        "with shielded(CLEANUP_TIMEOUT) as scope:\n    scope.deadline = 5\n    x = scope.shield"
    )
    assert list(violations(source)) == []
    assert list(violations("anyio.move_on_after(5)\nawait asyncio.shield(future)")) == []
