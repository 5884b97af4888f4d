"""The advised prefetch hides a claim's round trip behind short jobs, and is none for long ones."""

from __future__ import annotations

from roost._worker.prefetch import PrefetchController


def paced(
    *, rate: float, round_trip: float, fixed: int | None = None, most: int = 64
) -> PrefetchController:
    pace = PrefetchController(fixed=fixed, most=most)
    for second in range(50):
        pace.record_claim(began=float(second), ended=second + round_trip)
        pace.record_finished(round(second * rate), now=float(second))
    return pace


def test_nothing_is_hoarded_before_anything_is_known() -> None:
    assert PrefetchController(fixed=None, most=64).size == 0


def test_short_jobs_get_a_line_of_twice_what_ends_during_a_claim() -> None:
    assert 58 <= paced(rate=1_000, round_trip=0.03).size <= 60


def test_short_jobs_get_a_line_of_some_milliseconds_however_fast_claims_are() -> None:
    assert 29 <= paced(rate=1_000, round_trip=0.001).size <= 30


def test_long_jobs_get_none() -> None:
    assert paced(rate=0.5, round_trip=0.01).size == 0


def test_the_advice_is_bounded() -> None:
    assert paced(rate=1_000_000, round_trip=1).size == 64


def test_a_fixed_prefetch_is_kept() -> None:
    assert paced(rate=2_000, round_trip=0.01, fixed=3).size == 3
    assert PrefetchController(fixed=0, most=64).size == 0


def test_after_a_stall_none_is_advised_until_a_job_ends() -> None:
    for fixed in (None, 3):
        pace = paced(rate=2_000, round_trip=0.01, fixed=fixed)
        pace.stall()
        assert pace.size == 0
        pace.record_finished(98_000, now=50.0)
        assert pace.size == 0
        pace.record_finished(98_001, now=51.0)
        pace.record_finished(100_000, now=52.0)
        assert pace.size > 0


def test_a_look_right_after_another_does_not_count_as_a_pause() -> None:
    pace = PrefetchController(fixed=None, most=1_000)
    for second in range(50):
        pace.record_finished(10_000 * second, now=float(second))
        pace.record_finished(10_000 * second, now=second + 0.00001)
    assert 299 <= pace.size <= 300


def test_two_looks_at_one_instant_are_no_division_by_zero() -> None:
    pace = PrefetchController(fixed=None, most=64)
    pace.record_finished(1, now=1.0)
    pace.record_finished(5, now=1.0)
    assert pace.size == 0


def test_what_is_prefetched_starts_soon_only_where_jobs_have_been_short_for_a_while() -> None:
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
