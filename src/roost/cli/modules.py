"""Import the modules of ``-m``: the registry of their tasks, and the worker that one may name."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import attrs
import typer

from roost import HandlerRegistry, InvalidSettingError, Worker, WorkerSettings
from roost._model.registry import default_registry

OptionalModules = Annotated[
    list[str] | None,
    typer.Option(
        "-m",
        "--module",
        help="A module with the tasks: package.module, or package.module:registry. For the "
        "defaults of @job. Repeat it for more.",
        show_default=False,
    ),
]

FRAMES = 5
"""Number of frames of an import error to show. The last ones are in the user's code."""

_MISSING = object()


@attrs.frozen
class Application:
    """What the modules of ``-m`` define.

    :param registry: all of their tasks.
    :param worker: the worker, or the settings of one, that ``package.module:name`` names.
    """

    registry: HandlerRegistry
    worker: Worker | WorkerSettings | None


def registry_of(names: Sequence[str] | None) -> HandlerRegistry:
    """Return the tasks of modules, as `load` imports them; without modules: an empty registry."""
    return load(names).registry if names else HandlerRegistry()


def load(names: Sequence[str]) -> Application:
    """Import modules from the current folder and return what they define.

    :param names: each ``package.module``, or ``package.module:name`` of a `HandlerRegistry`, a
        `Worker` or `WorkerSettings`.
    :raises InvalidSettingError: a module can't be imported, registers no task, or has no such name;
        or two names are workers.
    :raises DuplicateTaskError: two registries have different functions for one task name.
    """
    folder = str(Path.cwd())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    found: list[HandlerRegistry] = []
    worker: Worker | WorkerSettings | None = None
    for name in names:
        loaded = _load(name)
        if not any(loaded.registry is known for known in found):
            found.append(loaded.registry)
        if loaded.worker is not None:
            if worker is not None:
                raise InvalidSettingError(f"{name!r} is a second worker: name one")
            worker = loaded.worker
    return Application(_merged(found), worker)


def _merged(found: Sequence[HandlerRegistry]) -> HandlerRegistry:
    if len(found) == 1:
        return found[0]
    merged = HandlerRegistry()
    for registry in found:
        merged.include(registry)
    return merged


def _load(name: str) -> Application:
    module_name, _, attribute = name.partition(":")
    if _is_file(module_name):
        raise InvalidSettingError(_name_a_module(module_name, attribute))
    before = set(default_registry)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not _frames(error):
            raise InvalidSettingError(
                f"can't import {module_name!r}: {error}. Run the command in the folder that has "
                "it, or add that folder to PYTHONPATH"
            ) from error
        raise InvalidSettingError(f"can't import {module_name!r}:\n{_gist(error)}") from error
    if attribute:
        return _named(name, getattr(module, attribute, _MISSING))
    if set(default_registry) == before and not _mentions_a_task(vars(module), module_name):
        raise InvalidSettingError(
            f"the module {module_name!r} registers no task: decorate its handlers with "
            f"@roost.job(...), or name a registry of your own as {module_name}:<its name>"
        )
    return Application(default_registry, None)


def _named(name: str, value: object) -> Application:
    """Return what ``package.module:name`` stands for."""
    match value:
        case HandlerRegistry():
            application = Application(value, None)
        case Worker():
            application = Application(value.registry, value)
        case WorkerSettings():
            application = Application(default_registry, value)
        case _:
            kind = type(value).__qualname__  # not the value: it may be a DSN with its password
            why = (
                "but the module has no such name"
                if value is _MISSING
                else f"but it is of type {kind}"
            )
            raise InvalidSettingError(
                f"{name!r} must be a HandlerRegistry, a Worker or WorkerSettings, {why}"
            )
    if not len(application.registry):
        raise InvalidSettingError(f"the registry of {name!r} has no task")
    return application


def _is_file(name: str) -> bool:
    if "/" in name or os.sep in name:
        return True
    return name.endswith(".py") and not Path(*name.split(".")).with_suffix(".py").exists()


def _name_a_module(name: str, attribute: str) -> str:
    """Return the message for a file name: the name of its module, if it can have one."""
    folder = Path.cwd()
    parts = list(Path(os.path.relpath(name, folder)).with_suffix("").parts)
    hint = ""
    if parts[:1] == [os.pardir]:
        folder = Path(os.path.abspath(name)).parent  # noqa: PTH100  (it may be a link)
        parts, hint = parts[-1:], f", from the folder {folder}"
    if parts[-1:] == ["__init__"] and len(parts) > 1:
        parts.pop()
    module = ".".join(parts)
    right = f"{module}:{attribute}" if attribute else module
    if not all(part.isidentifier() for part in parts):
        return f"-m takes the name of a module, and the file {name!r} can't be one: rename it"
    return f"name a module, not a file: -m {right}{hint}"


def _mentions_a_task(values: dict[str, object], module_name: str) -> bool:
    """Return whether a module has tasks of the default registry, if it was imported earlier."""
    functions = [default_registry.handler_of(task).func for task in default_registry]
    return any(
        getattr(function, "__module__", None) == module_name
        or any(function is value for value in values.values())
        for function in functions
    )


def _gist(error: Exception) -> str:
    """Return the error with its last frames."""
    frames = _frames(error)
    lines = traceback.format_list(frames[-FRAMES:]) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()


def _frames(error: Exception) -> list[traceback.FrameSummary]:
    """Return the frames of an import error without those of the import system."""
    return [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and "importlib" not in Path(frame.filename).parts
        and not frame.filename.startswith("<frozen")
    ]
