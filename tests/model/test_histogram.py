"""Histograms of durations: buckets, sums, quantiles and the form in which they are stored."""

from __future__ import annotations

import itertools
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from roost._model.histogram import (
    MAX_BUCKET,
    count_buckets,
    decode,
    encode,
    lower_bound,
    quantile,
)
from roost._model.tally import Series, Tally

SERIES = Series("default", "work")

seconds = st.floats(min_value=0, max_value=1e9, allow_nan=False)
histograms = st.dictionaries(st.integers(0, MAX_BUCKET), st.integers(1, 10**6))


def bucket_of(seconds: float) -> int:
    [bucket] = count_buckets([seconds])
    return bucket


@given(seconds)
def test_a_duration_lies_between_the_bounds_of_its_bucket(duration: float) -> None:
    bucket = bucket_of(duration)
    assert 0 <= bucket <= MAX_BUCKET
    assert lower_bound(bucket) <= duration
    assert duration < lower_bound(bucket + 1) or bucket == MAX_BUCKET


def test_bounds_are_at_most_a_quarter_apart_and_meet_powers_of_two() -> None:
    bounds = [lower_bound(bucket) for bucket in range(1, MAX_BUCKET + 1)]
    assert all(1 < after / before <= 1.25 for before, after in itertools.pairwise(bounds))
    assert {2.0**n for n in range(-20, 21)} <= set(bounds)
    assert (lower_bound(0), lower_bound(81), bucket_of(1.0)) == (0.0, 1.0, 81)
    assert (bucket_of(-0.0), bucket_of(0.0), bucket_of(1e12)) == (0, 0, MAX_BUCKET)


@given(histograms)
def test_a_stored_histogram_is_read_again(histogram: dict[int, int]) -> None:
    stored = encode(histogram)
    assert decode(stored) == histogram
    assert decode(str(int(stored))) == histogram  # as the database returns it


@given(histograms, histograms)
def test_the_sum_of_stored_histograms_is_that_of_the_histograms(
    one: dict[int, int], other: dict[int, int]
) -> None:
    total = decode(str(int(encode(one)) + int(encode(other))))
    assert total == {bucket: one.get(bucket, 0) + other.get(bucket, 0) for bucket in {*one, *other}}


@given(st.lists(seconds, min_size=1, max_size=200), st.sampled_from([0.0, 0.5, 0.95, 0.99, 1.0]))
def test_a_quantile_is_in_the_bucket_of_the_exact_one(durations: list[float], share: float) -> None:
    tally = Tally()
    for duration in durations:
        tally.samples.append((SERIES, 0.0, duration))
    tally.fold()
    exact = sorted(durations)[max(math.ceil(share * len(durations)) - 1, 0)]
    found = quantile(tally.run, share)
    assert found is not None
    bucket = bucket_of(exact)
    assert lower_bound(bucket) <= found <= lower_bound(bucket + 1)


def test_an_empty_histogram_has_no_quantile() -> None:
    assert quantile({}, 0.5) is None


def test_quantiles_of_evenly_spread_durations() -> None:
    tally = Tally()
    for n in range(1, 10_001):
        tally.samples.append((SERIES, n / 1000, n / 1000))
    tally.fold()
    assert quantile(tally.run, 0.5) == pytest.approx(5.0, rel=0.01)
    assert quantile(tally.run, 0.99) == pytest.approx(9.9, rel=0.03)
    assert tally.count == 10_000
    assert tally.run_seconds == pytest.approx(50_005.0)
