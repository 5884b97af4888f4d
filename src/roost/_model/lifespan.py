"""What a worker's lifespan is, and the state that it makes for handlers.

The worker enters and leaves it in ``_worker/lanes/lifespan.py``.
"""

import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING, Any, TypeAlias

from roost._model.functions import location, takes
from roost.exceptions import InvalidSettingError

Lifespan: TypeAlias = Callable[..., AbstractAsyncContextManager[Any]]
"""Returns a context manager that is entered before a worker's first job and left after its last."""


class State:
    """Values that a worker's handlers share, such as an HTTP client or a connection pool.

    For example:

        from contextlib import asynccontextmanager

        @asynccontextmanager
        async def lifespan():
            async with AsyncRoost("postgresql://localhost/app") as client:
                yield {"client": client}

        @job("sign_up")
        async def sign_up(user_id: int, state: State) -> None:
            await state.client.enqueue("send_email", args={"user_id": user_id})

        worker = Worker("postgresql://localhost/app", lifespan=lifespan)

    A handler's parameter that is annotated with `State` gets the worker's state; `current_state`
    returns it anywhere in a job. For typed attributes, derive a class of your own, such as a
    dataclass, let the lifespan yield an instance, and annotate the parameter with that class.

    :param values: the attributes.
    """

    def __init__(self, **values: Any) -> None:
        vars(self).update(values)

    if TYPE_CHECKING:

        def __setattr__(self, name: str, value: Any) -> None: ...

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"the worker's state has no {name!r}: let its lifespan yield one, or on_startup set it"
        )


def wrong_state(state: State, kind: type) -> InvalidSettingError:
    """Return the error for a worker's state that is not of the class that a handler names."""
    return InvalidSettingError(
        f"the worker's state is a {type(state).__name__}, not a {kind.__name__}: let its "
        f"lifespan yield a {kind.__name__}"
    )


def check_lifespan(name: str, function: object) -> None:
    """Refuse what can't be a worker's ``lifespan``.

    :raises InvalidSettingError: it can't be called with the worker, nor without arguments; or it is
        a generator without a decorator.
    """
    if function is None:
        return
    if inspect.isasyncgenfunction(function) or inspect.isgeneratorfunction(function):
        raise InvalidSettingError(
            f"{name} must return an async context manager: decorate {location(function)} with "
            "contextlib.asynccontextmanager"
        )
    check_worker_function(name, function)


def check_worker_function(name: str, function: object) -> None:
    """Refuse what can be called neither with the worker nor without arguments.

    :raises InvalidSettingError: see above.
    """
    if function is None:
        return
    if not callable(function):
        raise InvalidSettingError(f"{name} must be a function, not {function!r}")
    if not (takes(function, 1) or takes(function, 0)):
        raise InvalidSettingError(
            f"{name} is called with the worker, or without arguments, and {location(function)} "
            "can't be"
        )


def call_with_worker(function: Callable[..., Any], worker: object) -> Any:
    """Call ``function`` with the worker if it takes an argument, and return its result."""
    return function(worker) if takes(function, 1) else function()
