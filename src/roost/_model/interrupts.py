"""Distinguish a user's Ctrl-C from a ``KeyboardInterrupt`` that a job's own code raised."""

from __future__ import annotations

import dis
import functools
import signal
from types import CodeType, TracebackType
from typing import Any

_RAISES = frozenset(
    number for name, number in dis.opmap.items() if name in ("RAISE_VARARGS", "RERAISE")
)


def is_ctrl_c(error: BaseException) -> bool:
    """Return whether ``error`` is a ``KeyboardInterrupt`` raised by the process's SIGINT handler.

    If so, its traceback ends in that handler, whichever event loop installed it. Python's default
    handler is written in C and has no frame; its traceback ends at the interrupted instruction,
    which is not a ``raise``.
    """
    if not isinstance(error, KeyboardInterrupt) or error.__traceback__ is None:
        return False
    last = _last(error.__traceback__)
    handler = signal.getsignal(signal.SIGINT)
    if handler is signal.default_int_handler:
        return last.tb_frame.f_code.co_code[last.tb_lasti] not in _RAISES
    return last.tb_frame.f_code is _code_of(handler)


def _last(trace: TracebackType) -> TracebackType:
    while trace.tb_next is not None:
        trace = trace.tb_next
    return trace


def _code_of(handler: Any) -> CodeType | None:
    while isinstance(handler, functools.partial):
        handler = handler.func
    code: CodeType | None = getattr(getattr(handler, "__func__", handler), "__code__", None)
    return code
