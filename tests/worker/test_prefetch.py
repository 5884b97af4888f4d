"""The prefetch is large enough to hide a claim's round trip for short jobs, and 0 for long ones."""

from __future__ import annotations

from roost import WorkerSettings
from roost._worker.prefetch import PrefetchController
from roost._worker.queue_changes import groups_for


def paced(
    *,
    rate: float,
    round_trip: float,
    fixed: int | None = None,
    most: int = 64,
    shared: bool = False,
) -> PrefetchController:
    pace = PrefetchController(fixed=fixed, most=most, shared=shared)
    for second in range(50):
        pace.record_claim(began=float(second), ended=second + round_trip)
        pace.record_finished(round(second * rate), now=float(second))
    return pace


def test_no_job_is_prefetched_before_the_first_measurement() -> None:
    assert PrefetchController(fixed=None, most=64).size == 0


def test_the_prefetch_is_twice_the_jobs_that_end_during_a_claim() -> None:
    assert 58 <= paced(rate=1_000, round_trip=0.03).size <= 60


def test_short_jobs_are_prefetched_for_30_milliseconds_of_work_at_least() -> None:
    assert 29 <= paced(rate=1_000, round_trip=0.001).size <= 30


def test_long_jobs_are_not_prefetched() -> None:
    assert paced(rate=0.5, round_trip=0.01).size == 0


def test_the_prefetch_is_bounded() -> None:
    assert paced(rate=1_000_000, round_trip=1).size == 64


def test_a_fixed_prefetch_is_kept() -> None:
    assert paced(rate=2_000, round_trip=0.01, fixed=3).size == 3
    assert PrefetchController(fixed=0, most=64).size == 0


def test_a_fixed_prefetch_that_queues_share_holds_a_tenth_of_a_second_of_work() -> None:
    assert paced(rate=80, round_trip=0.01, fixed=100, shared=True).size in (7, 8)
    assert paced(rate=10_000, round_trip=0.01, fixed=100, shared=True).size == 100
    assert PrefetchController(fixed=100, most=64, shared=True).size == 0


def test_a_worker_of_several_queues_shares_its_prefetch() -> None:
    def shared(queues: list[str] | dict[str, int]) -> list[bool]:
        groups, _ = groups_for(WorkerSettings(queues=queues))
        return [group.prefetch.shared for group in groups]

    assert shared(["a"]) == [False]
    assert shared(["a", "b"]) == [True]
    assert shared({"a": 1, "b": 1}) == [False, False]


def test_after_a_stall_no_job_is_prefetched_until_one_ends() -> None:
    for fixed in (None, 3):
        pace = paced(rate=2_000, round_trip=0.01, fixed=fixed)
        pace.stall()
        assert pace.size == 0
        pace.record_finished(98_000, now=50.0)
        assert pace.size == 0
        pace.record_finished(98_001, now=51.0)
        pace.record_finished(100_000, now=52.0)
        assert pace.size > 0


def test_two_measurements_close_together_do_not_lower_the_rate() -> None:
    pace = PrefetchController(fixed=None, most=1_000)
    for second in range(50):
        pace.record_finished(10_000 * second, now=float(second))
        pace.record_finished(10_000 * second, now=second + 0.00001)
    assert 299 <= pace.size <= 300


def test_two_measurements_at_one_instant_do_not_divide_by_zero() -> None:
    pace = PrefetchController(fixed=None, most=64)
    pace.record_finished(1, now=1.0)
    pace.record_finished(5, now=1.0)
    assert pace.size == 0


def test_prefetched_jobs_start_soon_only_after_a_period_of_short_jobs() -> None:
    pace = PrefetchController(fixed=None, most=1_000)
    assert not pace.starts_soon
    for step in range(10):
        pace.record_finished(20 * step, now=step * 0.01)
        assert not pace.starts_soon, "a burst"
    for step in range(10, 60):
        pace.record_finished(20 * step, now=step * 0.01)
    assert pace.starts_soon
    for second in range(1, 6):
        pace.record_finished(1_180 + second, now=second)
    assert not pace.starts_soon, "they have become long"
    assert not paced(rate=1_000, round_trip=0.5, most=1_000).starts_soon, "a long line"
    assert not paced(rate=10, round_trip=0.01, fixed=50).starts_soon, "long jobs"
