"""A call of a task, checked by type checkers: ``roost.call(send_email, user_id=1)``."""

import inspect
from collections.abc import Callable
from typing import (
    Any,
    Concatenate,
    Generic,
    ParamSpec,
    Self,
    TypeVar,
    Unpack,
    overload,
)

import attrs

from roost._model.job import CallOptions, Job
from roost._model.job_parameter import injected_parameters
from roost._model.lifespan import State
from roost.exceptions import InvalidJobError

P = ParamSpec("P")
R = TypeVar("R")
S = TypeVar("S", bound=State)
R_co = TypeVar("R_co", covariant=True)


@attrs.frozen
class TaskCall(Generic[R_co]):
    """A task function and its arguments; every ``enqueue`` accepts it.

    Its type parameter is the function's return type; for an ``async def`` that is a coroutine.
    """

    func: Callable[..., Any]
    args: dict[str, Any]
    overrides: CallOptions = attrs.field(factory=CallOptions)

    def options(self, **options: Unpack[CallOptions]) -> Self:
        """Return the same call with options that override the task's defaults.

        :param options: ``queue``, ``priority`` and so on, as for `AsyncRoost.enqueue`. Pass
            ``on_conflict``, ``conn`` and ``transactional`` to ``enqueue`` itself.
        :raises TypeError: an option is unknown.
        """
        if unknown := options.keys() - CallOptions.__annotations__.keys():
            raise TypeError(
                f"unknown option {sorted(unknown)}: use {list(CallOptions.__annotations__)}"
            )
        overrides: CallOptions = {**self.overrides, **options}
        return attrs.evolve(self, overrides=overrides)


@overload
def call(
    func: Callable[Concatenate[Job, P], R], /, *args: P.args, **kwargs: P.kwargs
) -> TaskCall[R]: ...
@overload
def call(
    func: Callable[Concatenate[S, P], R], /, *args: P.args, **kwargs: P.kwargs
) -> TaskCall[R]: ...
@overload
def call(
    func: Callable[Concatenate[Job, S, P], R], /, *args: P.args, **kwargs: P.kwargs
) -> TaskCall[R]: ...
@overload
def call(func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> TaskCall[R]: ...
def call(func: Callable[..., R], /, *args: Any, **kwargs: Any) -> TaskCall[R]:
    """Return a call of a task for ``enqueue``; type checkers check its arguments.

    For example:

        await client.enqueue(call(send_email, user_id=1).options(queue="mail"))

    The function is not called. Positional arguments are stored under the names of their parameters.
    Leave out the parameters that get the running `Job` and the worker's `State`; type checkers know
    them as the first ones, in this order.

    :param func: the task's function.
    :param args: its positional arguments.
    :param kwargs: its keyword arguments.
    :raises InvalidJobError: ``func`` does not accept these arguments.
    """
    signature = inspect.signature(func)
    if injected := injected_parameters(func):
        others = [each for each in signature.parameters.values() if each.name not in injected]
        signature = signature.replace(parameters=others)
    try:
        bound = signature.bind_partial(*args, **kwargs)
    except TypeError as error:
        name = getattr(func, "__name__", repr(func))
        raise InvalidJobError(f"{name}() can't be called like this: {error}") from error
    arguments: dict[str, Any] = {}
    for name, value in bound.arguments.items():
        kind = bound.signature.parameters[name].kind
        if kind is inspect.Parameter.VAR_KEYWORD:
            arguments.update(value)
        elif kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.POSITIONAL_ONLY):
            raise InvalidJobError(f"{name} has no name to store it by; a handler gets keywords")
        else:
            arguments[name] = value
    return TaskCall(func, arguments)
