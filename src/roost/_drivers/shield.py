"""The only place in the package that shields a wait from cancels, always with a deadline."""

from __future__ import annotations

import math

import anyio


def shielded(seconds: float) -> anyio.CancelScope:
    """Return a cancel scope that protects what runs in it from outside cancels for ``seconds``.

    After that time the scope cancels what runs in it, and ``cancelled_caught`` is true afterwards.
    A cancel from outside that arrives earlier is delivered at the first wait after the scope.
    The ``deadline`` may be changed afterwards, to another finite time.

    A native cancel (asyncio's ``Task.cancel``) ignores the shield.

    :param seconds: a finite number. Zero or less: the first wait in the scope is cancelled.
    :raises ValueError: ``seconds`` is infinite or NaN. An application could not be stopped while
        such a shield holds.
    """
    if not math.isfinite(seconds):
        raise ValueError(f"a shield needs a finite number of seconds, not {seconds}")
    return anyio.move_on_after(seconds, shield=True)
