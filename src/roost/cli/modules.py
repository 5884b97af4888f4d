"""Import the modules of ``-m`` and return the registry of their tasks."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from roost import HandlerRegistry, InvalidSettingError
from roost._model.registry import default_registry

FRAMES = 5
"""Number of frames of an import error to show. The last ones are in the user's code."""


def load_registry(names: Sequence[str]) -> HandlerRegistry:
    """Import modules from the current folder and return one registry with all of their tasks.

    :param names: each ``package.module`` or ``package.module:registry``.
    :raises InvalidSettingError: a module can't be imported, or registers no task.
    :raises DuplicateTaskError: two registries have different functions for one task name.
    """
    folder = str(Path.cwd())
    if sys.path[:1] != [folder]:
        sys.path.insert(0, folder)
    found: list[HandlerRegistry] = []
    for name in names:
        registry = _load(name)
        if not any(registry is known for known in found):
            found.append(registry)
    if len(found) == 1:
        return found[0]
    merged = HandlerRegistry()
    for registry in found:
        for task in registry:
            handler = registry.handler_of(task)
            merged.register(
                task,
                handler.func,
                args_model=handler.args_model,
                defaults=handler.defaults,
                run_in=handler.run_in,
            )
        for entry in registry.cron_entries:
            merged.add_cron(entry, registry.handler_of(entry.task).func)
    return merged


def _load(name: str) -> HandlerRegistry:
    module_name, _, attribute = name.partition(":")
    if _is_file(module_name):
        raise InvalidSettingError(_name_a_module(module_name, attribute))
    before = set(default_registry)
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InvalidSettingError(f"can't import {module_name!r}:\n{_gist(error)}") from error
    if attribute:
        registry = getattr(module, attribute, None)
        if not isinstance(registry, HandlerRegistry):
            raise InvalidSettingError(f"{name!r} is not a HandlerRegistry")
        if not len(registry):
            raise InvalidSettingError(f"the registry {name!r} has no task")
        return registry
    if set(default_registry) == before and not _mentions_a_task(vars(module), module_name):
        raise InvalidSettingError(
            f"the module {module_name!r} registers no task: decorate its handlers with "
            f"@roost.job(...), or name a registry of your own as {module_name}:<its name>"
        )
    return default_registry


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
    """Return the error with its last frames, without those of the import system."""
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename != __file__
        and "importlib" not in Path(frame.filename).parts
        and not frame.filename.startswith("<frozen")
    ]
    lines = traceback.format_list(frames[-FRAMES:]) + traceback.format_exception_only(error)
    return "".join(lines).rstrip()
