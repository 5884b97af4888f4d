"""Keeps errors of OpenTelemetry, and of the exporters behind it, away from jobs and callers."""

from __future__ import annotations

import math
from time import monotonic
from types import TracebackType
from typing import Final

from roost._model.logs import StructuredLogger
from roost._model.verdict import error_record

logger = StructuredLogger("roost.otel")

REPORT_INTERVAL: Final = 60.0
"""Seconds between two log lines about errors; an exporter that fails does so at each job."""


class _Guard:
    """Logs an error of its block, and does not let it out."""

    def __init__(self) -> None:
        self._reported_at = -math.inf

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_val: BaseException | None,
        exc_tb: TracebackType | None,
    ) -> bool:
        if not isinstance(exc_val, Exception):
            return False
        if monotonic() >= self._reported_at + REPORT_INTERVAL:
            self._reported_at = monotonic()
            logger.error(
                "OpenTelemetry failed, and jobs go on: %(error)s",
                exc_info=exc_val,
                error=error_record(exc_val)["error"],
            )
        return True


guard: Final = _Guard()
