"""A KeyboardInterrupt that a handler raises fails its job and does not stop the worker."""

from __future__ import annotations

import signal
from collections.abc import Callable
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from tests.support.job_table import JobTable

from roost import HandlerRegistry, Worker, job
from roost._model.interrupts import is_ctrl_c


@pytest.mark.parametrize("kind", ["async", "thread"])
def test_an_interrupt_that_a_handler_raises_uses_its_attempt(
    dsn: str,
    table: JobTable,
    registry: HandlerRegistry,
    anyio_backend: tuple[str, dict[str, Any]],
    kind: str,
) -> None:
    @job("async", registry=registry)
    async def asynchronous() -> None:
        await anyio.lowlevel.checkpoint()
        raise KeyboardInterrupt

    @job("thread", registry=registry)
    def thread() -> None:
        raise KeyboardInterrupt

    job_id = table.add(kind, max_attempts=2)
    name, options = anyio_backend
    worker = Worker(dsn, registry=registry, retry_strategy=lambda _: 0.0)
    for state in ("available", "discarded"):
        assert anyio.run(worker.run_once, backend=name, backend_options=options) == 1
        assert table.get(job_id).state == state
    assert [record["error"] for record in table.get(job_id).errors] == ["KeyboardInterrupt"] * 2


def interrupted_by(act: Callable[[], object]) -> bool:
    try:
        act()
    except KeyboardInterrupt as error:
        return is_ctrl_c(error)
    raise AssertionError("not interrupted")


def test_ctrl_c_is_distinguished_from_an_interrupt_that_code_raises() -> None:
    def raise_it() -> None:
        raise KeyboardInterrupt

    def own_handler(*_: object) -> None:
        raise KeyboardInterrupt

    def signal_it() -> None:
        signal.raise_signal(signal.SIGINT)

    before = signal.getsignal(signal.SIGINT)
    try:
        for handler in (signal.default_int_handler, own_handler, partial(own_handler, 1)):
            signal.signal(signal.SIGINT, handler)
            assert interrupted_by(signal_it)
            assert not interrupted_by(raise_it)
    finally:
        signal.signal(signal.SIGINT, before)
    assert not is_ctrl_c(KeyboardInterrupt())
    assert not is_ctrl_c(ValueError())
