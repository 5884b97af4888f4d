"""Log what `roost run` runs with, and where each setting comes from. Never a password."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any

import attrs
import typer

from roost import Worker, WorkerSettings
from roost._drivers.redact import redact
from roost._model.logs import StructuredLogger, one_line
from roost.cli.modules import Application
from roost.cli.options import PYTHON_ONLY, find_dsn
from roost.cli.settings import source_of

logger = StructuredLogger("roost.cli")

NOT_SHOWN = {"context", "module", "queue", "dsn", "supervised"}
"""Parameters of the command that the line shows in another way, or that are internal."""


class SourcedSettings(dict[str, dict[str, object]]):
    """The value and source of each setting by name. As text it is ordered by source."""

    def __str__(self) -> str:
        """Return ``option: a=1, b=2; default: c=3``; defaults are last."""
        by_source: dict[str, list[str]] = {}
        for name, setting in self.items():
            text = f"{name}={_text(setting['value'])}"
            by_source.setdefault(str(setting["source"]), []).append(text)
        if defaults := by_source.pop("default", None):
            by_source["default"] = defaults
        return one_line("; ".join(f"{key}: {', '.join(all_)}" for key, all_ in by_source.items()))


def log_settings(
    context: typer.Context, worker: Worker, application: Application, *, modules: Sequence[str]
) -> None:
    """Log the worker's settings, modules and database.

    The source of a setting is ``option``, a variable, the path of a file, ``module`` (the worker or
    the settings that ``-m`` names) or ``default``.
    """
    own = "default" if application.worker is None else "module"
    shown = SourcedSettings()
    for field in attrs.fields(WorkerSettings):
        parameter = "queue" if field.name == "queues" else field.name
        known = parameter in context.params
        source = source_of(context, parameter) if known else "default"
        value = getattr(worker.settings, field.name)
        if source == "default" and value != field.default:
            source = own
        shown[field.name] = {"value": _plain(field.name, value), "source": source}
    for name, value in context.params.items():
        if name not in shown and name not in NOT_SHOWN:
            shown[name] = {"value": _plain(name, value), "source": source_of(context, name)}
    given = context.params["dsn"]
    keeps_own = isinstance(application.worker, Worker) and not given
    logger.info(
        "runs modules %(modules)s on database %(dsn)s (%(dsn_source)s) with %(settings)s",
        modules=list(modules),
        dsn=redact(worker.dsn),
        dsn_source="module" if keeps_own else find_dsn(given).source,
        settings=shown,
    )


def _plain(name: str, value: Any) -> object:
    """Return a setting as JSON has it. Of a function only the name: it may hold secrets."""
    if name in PYTHON_ONLY and value is not None:
        return str(getattr(value, "__qualname__", type(value).__qualname__))
    match value:
        case Enum():
            return str(value.value)
        case Mapping():
            return {str(_plain("", key)): each for key, each in value.items()}
        case None | bool() | int() | float() | str():
            return value
        case _:
            return list(map(str, value))


def _text(value: object) -> str:
    match value:
        case list():
            return f"[{', '.join(map(str, value))}]"
        case dict():
            return f"{{{', '.join(f'{key}: {each}' for key, each in value.items())}}}"
    return str(value)
