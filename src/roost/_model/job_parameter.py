"""Find the parameter of a handler that is annotated with `Job` and gets the running job."""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

from roost._model.job import Job


def job_parameter(func: Callable[..., Any]) -> str | None:
    """Return the name of the parameter that is annotated with `Job`, or ``None``.

    ``Job | None``, ``Optional[Job]``, ``Annotated[Job, ...]`` and strings of these count too. If an
    annotation can't be evaluated, since a name exists for type checkers only, its text decides.

    :param func: a function, a method, a `functools.partial` or an object with ``__call__``. A
        parameter that a partial has bound is ignored.
    """
    bound: set[str] = set()
    while isinstance(func, functools.partial):
        bound |= func.keywords.keys()
        func = func.func
    function = func if inspect.isroutine(func) else getattr(func, "__call__", func)  # noqa: B004
    function = inspect.unwrap(function)
    scope = {**getattr(function, "__globals__", {}), **_closure(function)}
    annotations: dict[str, object] = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        if name != "return" and name not in bound and _names_job(annotation, scope):
            return name
    return None


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the variables of the surrounding functions that ``function`` uses."""
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):  # a builtin, or a variable that has no value yet
        return {}


def _names_job(annotation: object, scope: dict[str, Any]) -> bool:
    if isinstance(annotation, str):
        text = annotation
        try:
            annotation = eval(text, scope)  # noqa: S307  (user's source; typing does the same)
        except Exception:  # noqa: BLE001  (a name may exist for type checkers only)
            return _says_job(text)
        if isinstance(annotation, str):  # a string in a string
            return _says_job(annotation)
    if annotation is Job:
        return True
    origin = get_origin(annotation)
    if origin is Annotated:
        return _names_job(get_args(annotation)[0], scope)
    if origin in (Union, types.UnionType):
        return any(_names_job(part, scope) for part in get_args(annotation))
    forward = getattr(annotation, "__forward_arg__", None)  # Optional["Job"]
    return isinstance(forward, str) and _names_job(forward, scope)


def _says_job(annotation: str | None) -> bool:
    try:
        return annotation is not None and _is_job(ast.parse(annotation, mode="eval").body)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _is_job(node: ast.expr) -> bool:
    """Return whether an expression is ``Job``, or has it as an alternative, by its names."""
    match node:
        case ast.Name(id="Job") | ast.Attribute(value=ast.Name(id="roost"), attr="Job"):
            return True
        case ast.Constant(value=str(text)):
            return _says_job(text)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is_job(left) or _is_job(right)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Annotated":
                parts = parts[:1]
            return name in ("Optional", "Union", "Annotated") and any(map(_is_job, parts))
        case _:
            return False
