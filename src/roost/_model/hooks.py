"""What users run around every handler call."""

import inspect
from collections.abc import Awaitable, Callable

import attrs

from roost._model.functions import location
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

    :raises InvalidSettingError: a hook can't be called like this.
    """

    before_job: Callable[..., Awaitable[None]] | None = None
    after_job: Callable[..., Awaitable[None]] | None = None

    def __attrs_post_init__(self) -> None:
        _check("before_job", self.before_job, "(job, *, ctx)", {"ctx": None})
        keywords = {"result": None, "error": None, "ctx": None}
        _check("after_job", self.after_job, "(job, *, result, error, ctx)", keywords)


def _check(name: str, hook: object, shape: str, keywords: dict[str, None]) -> None:
    if hook is None:
        return
    if not callable(hook) or isinstance(hook, type):
        raise InvalidSettingError(f"{name} must be an async function, not {hook!r}")
    if inspect.isgeneratorfunction(hook) or inspect.isasyncgenfunction(hook):
        raise InvalidSettingError(
            f"{name} must be a function, and {location(hook)} is a generator: nothing would run it"
        )
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return  # what can't be read may take anything
    try:
        signature.bind(None, **keywords)
    except TypeError as error:
        raise InvalidSettingError(
            f"{name} is called as {shape}, and {location(hook)} can't be: {error}"
        ) from None
