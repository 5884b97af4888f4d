"""Hooks: functions of the user that run before and after every handler call."""

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

    For example:

        async def report(job, *, result, error, ctx):
            print(job.task, "failed" if error else "done")

        worker = client.worker(hooks=Hooks(after_job=report))

    ``ctx`` is a dict that both calls of one attempt share. ``error`` is ``None``, or why the
    attempt did not succeed: the handler's exception, `JobTimeoutError`, `JobFailed` for a cancel,
    or `WorkerShutdown` if the worker stopped it. A hook has five seconds; one that raises or takes
    longer is logged and does not change the job's outcome. A thread can't be stopped: once eight
    threads of plain hooks hang, plain hooks are skipped until one of the threads ends.

    :param before_job: called before the handler.
    :param after_job: called after the handler.
    :raises InvalidSettingError: a hook can't be called with these parameters.
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
            f"{name} must be a function that a call runs, and {location(hook)} is a generator"
        )
    try:
        signature = inspect.signature(hook)
    except (TypeError, ValueError):
        return  # no signature can be read, so it may accept anything
    try:
        signature.bind(None, **keywords)
    except TypeError as error:
        raise InvalidSettingError(
            f"{name} is called as {shape}, and {location(hook)} can't be: {error}"
        ) from None
