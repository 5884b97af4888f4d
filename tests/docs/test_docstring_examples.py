"""The examples in the docstrings of public names run."""

from __future__ import annotations

import ast
import functools
import inspect
import re
import textwrap
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import anyio
import psycopg
import pytest

import roost
from roost import (
    AsyncRoost,
    CancelJob,
    DiscardJob,
    HandlerRegistry,
    RetryJob,
    Roost,
    SnoozeJob,
)

EXAMPLE = re.compile(r"^For example:\n\n(?P<code>(?:(?: {4}[^\n]*)?\n)+)", re.MULTILINE)
AWAITS = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT


def examples() -> Iterator[tuple[str, str]]:
    """Yield each public name, and each public method, whose docstring has an example."""
    for name in roost.__all__:
        value = getattr(roost, name)
        documented = {name: value}
        if inspect.isclass(value):
            documented |= {
                f"{name}.{each}": method
                for each, method in inspect.getmembers(value, inspect.isfunction)
                if not each.startswith("_")
            }
        for where, each in documented.items():
            for match in EXAMPLE.finditer((inspect.getdoc(each) or "") + "\n"):
                yield where, textwrap.dedent(match["code"])


EXAMPLES = dict(examples())


def test_common_verbs_have_examples() -> None:
    assert EXAMPLES.keys() >= {
        *("AsyncRoost", "AsyncRoost.enqueue", "AsyncRoost.enqueue_many", "AsyncRoost.wait_for"),
        *("AsyncRoost.transaction", "Roost", "Roost.enqueue", "job", "cron", "call", "Worker"),
        *("Hooks", "SnoozeJob"),
    }


@pytest.mark.parametrize("name", EXAMPLES)
def test_an_example_runs(name: str, dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("create table users (id int)")
    code = EXAMPLES[name].replace("postgresql://localhost/app", dsn)
    anyio.run(_run, compile(code, name, "exec", flags=AWAITS), dsn)


async def _run(code: Any, dsn: str) -> None:
    registry = HandlerRegistry()

    @roost.job("send_email", registry=registry)
    async def send_email(user_id: int) -> str:
        return f"sent {user_id}"

    async with AsyncRoost(dsn, registry=registry) as client:
        with Roost(dsn, registry=registry) as blocking:
            job_id = await client.enqueue("send_email", args={"user_id": 1})
            await client.worker().run_once()
            # Decorators of an example fill this registry, not the shared one.
            tasks = HandlerRegistry()
            names = {
                **vars(roost),
                "job": functools.partial(roost.job, registry=tasks),
                "cron": functools.partial(roost.cron, handler_registry=tasks),
                "client": client,
                "blocking": blocking,
                "job_id": job_id,
                "send_email": send_email,
            }
            with anyio.fail_after(30), suppress(SnoozeJob, CancelJob, DiscardJob, RetryJob):
                ran = eval(code, names)
                if inspect.iscoroutine(ran):
                    await ran
