"""Make a handler's keyword arguments from a claimed job, and refuse args that don't fit it."""

from __future__ import annotations

from collections.abc import Mapping
from types import NoneType
from typing import Any

from pydantic import ValidationError

from roost._model.arguments import handler_arguments, read_model
from roost._model.functions import location
from roost._model.lifespan import State, wrong_state
from roost._model.registry import Handler
from roost._ops.claim import ClaimedJob
from roost.exceptions import InvalidArgsError

_ADVICE = (
    "Enqueue it again with other args; or deploy a handler that takes these, and revive the job "
    "with retry(). Workers with retry_invalid_args=True retry such jobs by themselves"
)


def keyword_arguments(handler: Handler, claimed: ClaimedJob, state: State) -> dict[str, Any]:
    """Return the handler's keyword arguments: the args or their model's fields, job and state.

    :raises InvalidArgsError: the handler can't be called with them.
    :raises InvalidJobError: the args are too large; see `ClaimedJob.is_oversized`.
    :raises InvalidSettingError: the worker's state is not of the class that the handler names.
    """
    args: dict[str, Any]
    if handler.args_model is None:
        args = {} if claimed.args_text == "{}" else claimed.args()
    elif claimed.is_oversized:
        raise claimed.oversized()
    else:
        try:
            model = read_model(handler.args_model, claimed.args_text)
        except ValidationError as error:
            name = handler.args_model.__name__
            raise InvalidArgsError(
                f"{name} of {location(handler.func)} refuses the job's args: {_first(error)}. "
                f"{_ADVICE}"
            ) from error
        args = handler_arguments(model, accepted=handler.accepted)
    # Checked before the call: a TypeError could as well come from the handler's own code. Mostly
    # all parameters are given, and a comparison tells so (0.1 µs of a job's 20, 2026-11-30).
    if args.keys() != handler.required and not handler.can_take(args):
        raise InvalidArgsError(f"{_misfit(handler, args)}. {_ADVICE}")
    if handler.job_parameter is not None:
        args[handler.job_parameter] = claimed.job()
    if handler.state_parameter is not None:
        args[handler.state_parameter] = _as_annotated(handler, state)
    return args


def _as_annotated(handler: Handler, state: State) -> State | None:
    """Return the state, or ``None`` if it has another class and the annotation allows that.

    :raises InvalidSettingError: it has another class.
    """
    if isinstance(state, handler.state_kinds):
        return state
    if NoneType in handler.state_kinds:
        return None
    raise wrong_state(state, handler.state_kinds[0])


def _first(error: ValidationError) -> str:
    """Return the first thing that a model refuses, and how many more there are."""
    found = error.errors(include_url=False, include_input=False, include_context=False)
    place = ".".join(map(str, found[0]["loc"])) or "the top level"
    more = f", and {len(found) - 1} more" if len(found) > 1 else ""
    return f"{place}: {found[0]['msg']}{more}"


def _misfit(handler: Handler, args: Mapping[str, object]) -> str:
    """Say which args are missing, and for which the handler has no parameter."""
    missing = sorted(handler.required - args.keys())
    unknown = [] if handler.callable_with is None else sorted(args.keys() - handler.callable_with)
    what = []
    if missing:
        what.append(f"has no args for {missing}")
    if unknown:
        what.append(f"has the args {unknown}, which are no parameters")
    return f"the job {' and '.join(what)} of {location(handler.func)}"
