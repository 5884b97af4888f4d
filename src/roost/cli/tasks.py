"""``roost tasks``: list the tasks of the workers, or export those of modules as a manifest."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated

import typer

from roost import TaskInfo
from roost._model.args_schema import args_schema
from roost._model.registry import Handler, published_options
from roost._model.version import roost_version
from roost.cli.client import CommandClient
from roost.cli.modules import load
from roost.cli.options import Dsn
from roost.cli.output import AsJson, Columns, examples, print_json, show

app = typer.Typer(help="List tasks, or export what they take.", no_args_is_help=True)


@app.command("list", epilog=examples("roost tasks list", "roost tasks list --json"))
def list_tasks(*, dsn: Dsn = None, as_json: AsJson = False) -> None:
    """List the tasks that a worker has, or had, a handler for.

    WORKERS counts the living workers that have one. ARGS are the names that the handler takes; a
    * must be passed.
    """
    with CommandClient(dsn, "tasks list") as client:
        tasks = client.list_tasks()
    show(tasks, COLUMNS, as_json=as_json, empty="There is no task: no worker has started yet.")


@app.command(epilog=examples("roost tasks export -m shop.jobs > tasks.json"))
def export(
    *,
    module: Annotated[
        list[str],
        typer.Option(
            "--module",
            "-m",
            help="A module with tasks: package.module, or package.module:registry. Repeat it for "
            "more.",
        ),
    ],
    _as_json: Annotated[
        bool, typer.Option("--json", help="As always here: it prints one JSON document.")
    ] = False,
) -> None:
    """Print the tasks of modules as JSON, with the JSON Schema of their args. Needs no database.

    For producers in other languages, and to see in a review what a change does to the args.
    """
    registry = load(module).registry
    options = published_options(registry)
    manifest = [_task(registry.handler_of(name), options[name]) for name in sorted(registry)]
    print_json({"roost": roost_version(), "tasks": manifest})


def _task(handler: Handler, options: Mapping[str, object]) -> dict[str, object]:
    schema = args_schema(handler)
    limit_by = handler.defaults.limit_by
    return {
        "name": handler.name,
        "options": options,
        "args_schema": None if schema is None else json.loads(schema),
        "max_concurrency": handler.defaults.max_concurrency,
        "rate_per_minute": handler.defaults.rate_per_minute,
        "limit_by": "()" if callable(limit_by) else limit_by,
    }


def _args(task: TaskInfo) -> object:
    if task.args_schema is None:
        return None
    required = task.args_schema.get("required", ())
    names = task.args_schema.get("properties", {})
    return [f"{name}*" if name in required else name for name in names]


def _limits(task: TaskInfo) -> object:
    limits = [
        f"{task.max_concurrency} at once" if task.max_concurrency else "",
        f"{task.rate_per_minute} a minute" if task.rate_per_minute else "",
    ]
    return ", ".join(filter(None, limits))


COLUMNS: Columns[TaskInfo] = {
    "TASK": lambda task: task.name,
    "WORKERS": lambda task: task.workers,
    "QUEUE": lambda task: task.options.get("queue", "default"),
    "LIMITS": _limits,
    "ARGS": _args,
}
