"""The routes of a worker's health and metrics, as a Starlette application."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from roost._model.info import WorkerHealth
from roost._worker.worker import Worker
from roost.web.extra import require_http
from roost.web.metrics import metrics_route

if TYPE_CHECKING:
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import Response

NO_STORE = {"Cache-Control": "no-store"}


def probes(worker: Worker) -> Starlette:
    """Return an ASGI application with the routes ``/livez``, ``/readyz`` and ``/metrics``.

    Mount it in your own web application, such as FastAPI, Starlette or Litestar:

        app.mount("/worker", probes(worker))

    ``/livez`` and ``/readyz`` answer 200 or 503 with `Worker.health` as a JSON object. No request
    makes a call to the database. ``/metrics`` answers in Prometheus' text format: the metrics of
    `RoostCollector` and those of the default registry. Without the extra ``prometheus`` it answers
    404.

    :param worker: it need not run yet.
    :raises InvalidSettingError: the extra ``http`` is not installed.
    """
    require_http()
    from starlette.applications import Starlette
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def livez(_: Request) -> Response:
        health = worker.health()
        return JSONResponse(_body(health, health.live), _status(health.live), NO_STORE)

    async def readyz(_: Request) -> Response:
        health = worker.health()
        return JSONResponse(_body(health, health.ready), _status(health.ready), NO_STORE)

    return Starlette(
        routes=[
            Route("/livez", livez),
            Route("/readyz", readyz),
            Route("/metrics", metrics_route(worker)),
        ]
    )


def _body(health: WorkerHealth, ok: bool) -> dict[str, object]:
    return {"status": "ok" if ok else "unavailable", **dataclasses.asdict(health)}


def _status(ok: bool) -> int:
    return 200 if ok else 503
