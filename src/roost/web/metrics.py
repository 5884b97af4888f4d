"""The route ``/metrics``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from importlib.util import find_spec
from typing import TYPE_CHECKING

import anyio
from anyio.lowlevel import RunVar

from roost._worker.worker import Worker

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

NOT_INSTALLED = "prometheus-client is not installed: pip install 'anyroost[prometheus]'\n"


def metrics_route(worker: Worker) -> Callable[[Request], Awaitable[Response]]:
    """Return the function that answers with the metrics, or 404 without the extra."""
    from starlette.responses import PlainTextResponse, Response

    async def metrics(request: Request) -> Response:
        if find_spec("prometheus_client") is None:
            return PlainTextResponse(NOT_INSTALLED, 404)
        from roost.contrib.prometheus import RoostCollector, as_text

        accept = request.headers.get("accept", "")
        # In a thread: 250 pairs of queue and task take 0.1 s.
        text, kind = await anyio.to_thread.run_sync(
            partial(as_text, RoostCollector(worker), accept=accept), limiter=_limiter()
        )
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": kind})

    return metrics


_limiters: RunVar[anyio.CapacityLimiter] = RunVar("roost_metrics_limiter")


def _limiter() -> anyio.CapacityLimiter:
    """Return the event loop's limiter of one text at a time; handlers have threads of their own."""
    try:
        return _limiters.get()
    except LookupError:
        limiter = anyio.CapacityLimiter(1)
        _limiters.set(limiter)
        return limiter
