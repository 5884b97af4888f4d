"""The route ``/metrics``."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING

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

        text, kind = as_text(RoostCollector(worker), accept=request.headers.get("accept", ""))
        return Response(text, headers={"Cache-Control": "no-store", "Content-Type": kind})

    return metrics
