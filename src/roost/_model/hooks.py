"""What users run around every handler call."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import attrs

from roost.exceptions import InvalidSettingError


@attrs.frozen
class Hooks:
    """Bundle of optional hooks invoked around every handler call.

    Both hooks are async. The signature is ``(job, *, ctx)`` for ``before_job`` and ``(job, *,
    result, error, ctx)`` for ``after_job``. Either can be omitted; only set the ones you need. A
    plain function is called in a thread.

    ``ctx`` is one dict for both calls of an attempt. ``error`` is what ended the attempt without
    success: the handler's exception, `JobTimeoutError`, `JobFailed` for a cancel, `WorkerShutdown`
    when the worker stopped it. A hook gets five seconds; one that raises or takes longer is logged
    and changes nothing about the job. A thread can't be stopped: when eight threads of plain
    functions hang, plain hooks are skipped until one of them ends.

    :raises InvalidSettingError: a hook is not callable.
    """

    before_job: Callable[..., Awaitable[None]] | None = None
    after_job: Callable[..., Awaitable[None]] | None = None

    def __attrs_post_init__(self) -> None:
        for name in ("before_job", "after_job"):
            hook = getattr(self, name)
            if hook is not None and not callable(hook):
                raise InvalidSettingError(f"{name} must be an async function, not {hook!r}")
