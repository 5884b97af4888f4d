"""Decide whether a failed attempt is followed by another one.

Three things decide, in this order: an exception that the handler raised to say so (`CancelJob`,
`DiscardJob`, `RetryJob`, `SnoozeJob`), the rules of the task (``retry_on``, ``discard_on``), and
the attempts that are left. `roost._model.verdict.judge` applies them.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal, TypeAlias

import attrs

from roost.exceptions import CancelJob, DiscardJob, InvalidSettingError, RetryJob, SnoozeJob

ExceptionClasses: TypeAlias = type[BaseException] | Sequence[type[BaseException]]
"""One exception class, or several; as in an ``except`` clause, subclasses count too."""

HandlerDecision: TypeAlias = SnoozeJob | CancelJob | DiscardJob | RetryJob
"""What a handler raises to decide about its own job."""


@attrs.frozen
class FailureRules:
    """Which errors of a task's handler are retried.

    :param retry_on: only these are retried; ``None``: all that ``discard_on`` does not name.
    :param discard_on: these are not retried.
    """

    retry_on: tuple[type[BaseException], ...] | None
    discard_on: tuple[type[BaseException], ...]

    def is_permanent(self, error: BaseException) -> bool:
        """Say whether another attempt would be useless.

        Of a group of errors each leaf is looked at: the group is permanent if all of them are.
        """
        return all(map(self._is_permanent, _leaves(error)))

    def _is_permanent(self, error: BaseException) -> bool:
        if isinstance(error, (CancelJob, DiscardJob)):
            return True
        if isinstance(error, (RetryJob, SnoozeJob)):
            return False
        # The nearest class decides: what is said of a class doesn't hold for a subclass of which
        # something else is said.
        for kind in type(error).__mro__:
            if kind in self.discard_on:
                return True
            if self.retry_on is not None and kind in self.retry_on:
                return False
        return self.retry_on is not None


NO_RULES = FailureRules(None, ())
"""The rules of a task that declares none: all errors are retried."""


def failure_rules(
    name: str, retry_on: ExceptionClasses | None, discard_on: ExceptionClasses | None
) -> FailureRules:
    """Return the rules that a task declares.

    :param name: the task's name, for messages.
    :raises InvalidSettingError: a value is no exception class, there is none, or both have one.
    """
    if retry_on is None and discard_on is None:
        return NO_RULES
    rules = FailureRules(
        None if retry_on is None else _classes(name, "retry_on", retry_on),
        () if discard_on is None else _classes(name, "discard_on", discard_on),
    )
    both = [kind for kind in rules.retry_on or () if kind in rules.discard_on]
    if both:
        raise InvalidSettingError(
            f"task {name!r}: {both[0].__qualname__} is in retry_on and in discard_on, and can "
            "only be in one of them"
        )
    return rules


def check_importable(name: str, rules: FailureRules) -> None:
    """Refuse exception classes that another process can't import.

    :raises InvalidSettingError: a class is not at the top of a module.
    """
    for kind in (*(rules.retry_on or ()), *rules.discard_on):
        if "<" in kind.__qualname__:
            raise InvalidSettingError(
                f"task {name!r} runs in a process, which can't import the exception "
                f"{kind.__qualname__}: define it at the top of a module"
            )


def handler_decision(error: BaseException) -> HandlerDecision | None:
    """Return what the handler has decided: the error, or the only error in a group.

    ``None``: it is another error, or there are several.
    """
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error if isinstance(error, (SnoozeJob, CancelJob, DiscardJob, RetryJob)) else None


def _leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors in a group that are no groups."""
    waiting = [error]
    while waiting:
        one = waiting.pop()
        if isinstance(one, BaseExceptionGroup):
            waiting.extend(one.exceptions)
        else:
            yield one


def _classes(
    name: str, what: Literal["retry_on", "discard_on"], given: object
) -> tuple[type[BaseException], ...]:
    classes = (given,) if isinstance(given, type) else given
    if not isinstance(classes, (tuple, list)) or not classes:
        raise InvalidSettingError(
            f"task {name!r}: {what} must be an exception class or several, not {given!r}"
        )
    for kind in classes:
        if not (isinstance(kind, type) and issubclass(kind, BaseException)):
            raise InvalidSettingError(
                f"task {name!r}: {what} must be exception classes, and {kind!r} is none"
            )
    return tuple(classes)
