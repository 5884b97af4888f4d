"""A worker's settings: checked values of `Worker`'s parameters."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final, Self

import attrs

from roost._model.backoff import BackoffStrategy, check_strategy, exponential
from roost._model.hooks import Hooks
from roost._model.job import default_number, is_default
from roost._model.lifespan import Lifespan, check_lifespan, check_worker_function
from roost._model.states import TERMINAL, JobState
from roost._model.validate import MAX_INT, check_name
from roost._model.verdict import DEFAULT_MAX_RESULT_BYTES, MAX_RESULT_BYTES
from roost.exceptions import InvalidSettingError

Queues = tuple[str, ...] | Mapping[str, int]
"""Names of queues that share all slots, or slots by queue."""
DEFAULT_CONCURRENCY: Final[int] = default_number(4)


def _queues(value: Iterable[str] | Mapping[str, int]) -> Queues:
    if isinstance(value, Mapping):
        return _queue_slots(value)
    if isinstance(value, str):
        raise InvalidSettingError(f"queues must be several names, such as ({value!r},)")
    if not isinstance(value, Iterable):
        raise InvalidSettingError(f"queues must be several names, or slots by name, not {value!r}")
    names = tuple(dict.fromkeys(value))
    if not names:
        raise InvalidSettingError("queues must have at least one name")
    for name in names:
        check_queue(name)
    return names


def _queue_slots(value: Mapping[str, int]) -> Mapping[str, int]:
    if not value:
        raise InvalidSettingError("queues must have at least one name")
    for name, slots in value.items():
        check_queue(name)
        check_slots(name, slots)
    return dict(value)


def check_queue(name: str) -> None:
    """Check a queue's name.

    :raises InvalidSettingError: it is none.
    """
    check_name("a queue", name, error=InvalidSettingError)


def check_slots(queue: str, slots: object) -> None:
    """Check a queue's number of slots.

    :raises InvalidSettingError: it is not a whole number ≥ 1.
    """
    number = isinstance(slots, int) and not isinstance(slots, bool)
    if not number or not 1 <= slots <= MAX_INT:  # type: ignore[operator]  # it is a number
        raise InvalidSettingError(
            f"the slots of queue {queue!r} must be a whole number ≥ 1 and ≤ {MAX_INT}, "
            f"not {slots!r}"
        )


MAX_SECONDS = 36_525 * 86_400.0
"""A century. Postgres's calendar, and the sleep of an event loop, are finite."""


def _whole(minimum: int) -> Callable[[object, Any, Any], None]:
    def check(_: object, field: Any, value: Any) -> None:
        number = isinstance(value, int) and not isinstance(value, bool)
        if not number or not minimum <= value <= MAX_INT:
            raise InvalidSettingError(
                f"{field.name} must be a whole number ≥ {minimum} and ≤ {MAX_INT}, not {value!r}"
            )

    return check


def _result_bytes(_: object, field: Any, value: Any) -> None:
    _whole(1_000)(_, field, value)
    if value > MAX_RESULT_BYTES:
        raise InvalidSettingError(f"{field.name} must be at most {MAX_RESULT_BYTES}, not {value!r}")


def _seconds(*, zero: bool = False) -> Callable[[object, Any, Any], None]:
    def check(_: object, field: Any, value: Any) -> None:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        if not number or not 0 <= value <= MAX_SECONDS or (value == 0 and not zero):
            bound = f"{'≥' if zero else '>'} 0 and ≤ {MAX_SECONDS:.0f} (a century)"
            raise InvalidSettingError(f"{field.name} must be finite seconds {bound}, not {value!r}")

    return check


def _archive_after(
    value: float | Mapping[str, float] | Mapping[JobState, float] | None,
) -> Mapping[JobState, float]:
    return _seconds_by_state("archive_after_seconds", value)


def _delete_after(
    value: float | Mapping[str, float] | Mapping[JobState, float] | None,
) -> Mapping[JobState, float]:
    return _seconds_by_state("delete_after_seconds", value)


def _seconds_by_state(name: str, value: object) -> Mapping[JobState, float]:
    """Return the seconds of each terminal state that has any; a single number is for all."""
    if value is None:
        return {}
    given: Mapping[Any, Any] = (
        value if isinstance(value, Mapping) else dict.fromkeys(sorted(TERMINAL), value)
    )
    for state, seconds in given.items():
        if not isinstance(state, str) or state not in TERMINAL:
            raise InvalidSettingError(
                f"{name} must be by completed, discarded or cancelled, not by {state!r}"
            )
        number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
        if not number or not 0 <= seconds <= MAX_SECONDS:
            raise InvalidSettingError(
                f"{name} must be finite seconds ≥ 0 and ≤ {MAX_SECONDS:.0f} (a century), "
                f"not {seconds!r}"
            )
    return {JobState(state): float(seconds) for state, seconds in given.items()}


def _hooks(_: object, __: object, value: Any) -> None:
    if not isinstance(value, Hooks):
        raise InvalidSettingError(f"hooks must be a roost.Hooks, not {value!r}")


def _retry_strategy(_: object, field: Any, value: object) -> None:
    check_strategy(field.name, value)


def _yes_or_no(_: object, field: Any, value: object) -> None:
    if not isinstance(value, bool):
        raise InvalidSettingError(f"{field.name} must be True or False, not {value!r}")


def _lifespan(_: object, field: Any, value: object) -> None:
    check_lifespan(field.name, value)


def _worker_function(_: object, field: Any, value: object) -> None:
    check_worker_function(field.name, value)


@attrs.frozen(kw_only=True)
class WorkerSettings:
    """How a worker works: `Worker`'s parameters of the same names, checked.

    `Worker` documents each of them.

    :raises InvalidSettingError: a value is out of its range; the message names it.
    """

    queues: Queues = attrs.field(default=("default",), converter=_queues)
    concurrency: int = attrs.field(default=DEFAULT_CONCURRENCY, validator=_whole(1))
    prefetch: int | None = attrs.field(default=None, validator=attrs.validators.optional(_whole(0)))
    poll_interval: float = attrs.field(default=1.0, validator=_seconds())
    retry_strategy: BackoffStrategy | None = attrs.field(default=None, validator=_retry_strategy)
    retry_invalid_args: bool = attrs.field(default=False, validator=_yes_or_no)
    timeout_seconds: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(_whole(1))
    )
    run_cron: bool = attrs.field(default=True, validator=_yes_or_no)
    heartbeat_interval: float = attrs.field(default=15.0, validator=_seconds())
    orphan_reaper_interval: float = attrs.field(default=30.0, validator=_seconds())
    orphan_stale_after: float = attrs.field(default=300.0, validator=_seconds())
    shutdown_timeout: float = attrs.field(default=30.0, validator=_seconds(zero=True))
    listen_reconnect_delay: float = attrs.field(default=1.0, validator=_seconds())
    error_cap: int = attrs.field(default=20, validator=_whole(1))
    max_result_bytes: int = attrs.field(default=DEFAULT_MAX_RESULT_BYTES, validator=_result_bytes)
    archive_after_seconds: Mapping[JobState, float] = attrs.field(
        default=None, converter=_archive_after
    )
    delete_after_seconds: Mapping[JobState, float] = attrs.field(
        default=None, converter=_delete_after
    )
    archive_interval: float = attrs.field(default=60.0, validator=_seconds())
    result_ttl_seconds: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(_seconds(zero=True))
    )
    startup_max_retries: int = attrs.field(default=30, validator=_whole(0))
    startup_retry_delay: float = attrs.field(default=1.0, validator=_seconds(zero=True))
    hooks: Hooks | None = attrs.field(default=None, validator=attrs.validators.optional(_hooks))
    lifespan: Lifespan | None = attrs.field(default=None, validator=_lifespan)
    on_startup: Callable[..., Any] | None = attrs.field(default=None, validator=_worker_function)
    on_shutdown: Callable[..., Any] | None = attrs.field(default=None, validator=_worker_function)

    def __attrs_post_init__(self) -> None:
        if is_default(self.concurrency):
            slots = DEFAULT_CONCURRENCY
            if isinstance(self.queues, Mapping):
                slots = default_number(min(sum(self.queues.values()), MAX_INT))
            object.__setattr__(self, "concurrency", slots)
        if self.heartbeat_interval * 2 > self.orphan_stale_after:
            raise InvalidSettingError(
                f"heartbeat_interval ({self.heartbeat_interval:g} s) must be at most half of "
                f"orphan_stale_after ({self.orphan_stale_after:g} s), so that one lost heartbeat "
                "does not look like a dead worker"
            )

    @classmethod
    def pick(cls, arguments: Mapping[str, Any]) -> Self:
        """Return the settings among the arguments of a call, by their names."""
        return cls(**{field.name: arguments[field.name] for field in attrs.fields(cls)})

    @property
    def queue_slots(self) -> Mapping[str, int] | None:
        """The slots of each queue; ``None``: the queues share all slots."""
        return self.queues if isinstance(self.queues, Mapping) else None

    @property
    def max_slots(self) -> int | None:
        """Jobs that may run at once in all queues that have slots of their own together.

        ``None``: as many as these queues have slots, since no ``concurrency`` was passed.
        """
        return None if is_default(self.concurrency) else self.concurrency

    @property
    def retry(self) -> BackoffStrategy:
        """The retry strategy to use."""
        return self.retry_strategy or _DEFAULT_RETRY

    @property
    def keeps_completed(self) -> bool:
        """Whether a completed job stays in the table until a maintenance run."""
        return self.delete_after_seconds.get(JobState.COMPLETED) != 0


_DEFAULT_RETRY = exponential()
