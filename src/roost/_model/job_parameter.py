"""Find the parameters of a handler that the worker fills: annotated with `Job` or `State`."""

from __future__ import annotations

import ast
import functools
import inspect
import types
from collections.abc import Callable
from typing import Annotated, Any, Union, get_args, get_origin

from roost._model.job import Job
from roost._model.lifespan import State


def job_parameter(func: Callable[..., Any]) -> str | None:
    """Return the name of the parameter that is annotated with `Job`, or ``None``.

    ``Job | None``, ``Optional[Job]``, ``Annotated[Job, ...]`` and strings of these count too. If an
    annotation can't be evaluated, since a name exists for type checkers only, its text decides.

    :param func: a function, a method, a `functools.partial` or an object with ``__call__``. A
        parameter that a partial has bound is ignored.
    """
    return _parameter(func, Job)[0]


def state_parameter(func: Callable[..., Any]) -> str | None:
    """Return the name of the parameter that is annotated with `State`, or ``None``.

    As `job_parameter`. A class derived from `State` counts too.
    """
    return _parameter(func, State)[0]


def state_kinds(func: Callable[..., Any]) -> tuple[type, ...]:
    """Return the classes that the annotation of `state_parameter` accepts, such as ``None``'s.

    `State` itself if the annotation can't be evaluated.
    """
    return _parameter(func, State)[1]


def injected_parameters(func: Callable[..., Any]) -> frozenset[str]:
    """Return the names of the parameters that the worker fills, which a job's args have not."""
    found = (job_parameter(func), state_parameter(func))
    return frozenset(name for name in found if name is not None)


def _parameter(func: Callable[..., Any], kind: type) -> tuple[str | None, tuple[type, ...]]:
    """Return the name of the parameter and the classes that its annotation accepts."""
    bound: set[str] = set()
    while isinstance(func, functools.partial):
        bound |= func.keywords.keys()
        func = func.func
    function = func if inspect.isroutine(func) else getattr(func, "__call__", func)  # noqa: B004
    function = inspect.unwrap(function)
    scope = {**getattr(function, "__globals__", {}), **_closure(function)}
    annotations: dict[str, object] = getattr(function, "__annotations__", {})
    for name, annotation in annotations.items():
        if name == "return" or name in bound:
            continue
        kinds = _kinds(annotation, scope, kind)
        if kinds - {types.NoneType}:
            return name, tuple(kinds)
    return None, ()


def _closure(function: Callable[..., Any]) -> dict[str, Any]:
    """Return the variables of the surrounding functions that ``function`` uses."""
    try:
        return dict(inspect.getclosurevars(function).nonlocals)
    except (TypeError, ValueError):  # a builtin, or a variable that has no value yet
        return {}


def _kinds(annotation: object, scope: dict[str, Any], kind: type) -> set[type]:
    """Return ``kind``, or its derived classes, that an annotation names; and ``None``'s class."""
    if isinstance(annotation, str):
        text = annotation
        try:
            annotation = eval(text, scope)  # noqa: S307  (user's source; typing does the same)
        except Exception:  # noqa: BLE001  (a name may exist for type checkers only)
            return {kind} if _says(text, kind) else set()
        if isinstance(annotation, str):  # a string in a string
            return {kind} if _says(annotation, kind) else set()
    if isinstance(annotation, type) and issubclass(annotation, (kind, types.NoneType)):
        return {annotation}
    origin = get_origin(annotation)
    if origin is Annotated:
        return _kinds(get_args(annotation)[0], scope, kind)
    if origin in (Union, types.UnionType):
        return {each for part in get_args(annotation) for each in _kinds(part, scope, kind)}
    forward = getattr(annotation, "__forward_arg__", None)  # Optional["Job"]
    return _kinds(forward, scope, kind) if isinstance(forward, str) else set()


def _says(annotation: str | None, kind: type) -> bool:
    try:
        return annotation is not None and _is(ast.parse(annotation, mode="eval").body, kind)
    except (SyntaxError, ValueError, RecursionError):
        return False


def _is(node: ast.expr, kind: type) -> bool:
    """Return whether an expression is ``kind``, or has it as an alternative, by its names."""
    match node:
        case ast.Name(id=name) | ast.Attribute(value=ast.Name(id="roost"), attr=name):
            return name == kind.__name__
        case ast.Constant(value=str(text)):
            return _says(text, kind)
        case ast.BinOp(left=left, op=ast.BitOr(), right=right):
            return _is(left, kind) or _is(right, kind)
        case ast.Subscript(value=ast.Name(id=name) | ast.Attribute(attr=name), slice=inner):
            parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
            if name == "Annotated":
                parts = parts[:1]
            return name in ("Optional", "Union", "Annotated") and any(
                _is(part, kind) for part in parts
            )
        case _:
            return False
