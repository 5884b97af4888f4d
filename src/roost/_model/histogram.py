"""Histograms of durations, with buckets on a logarithmic scale of base 2.

Between two powers of two lie four buckets, so a bound is at most 25 % above the one before. A
histogram is a plain dict of the counts that are not zero, by bucket.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from math import frexp
from typing import TypeAlias

Histogram: TypeAlias = Mapping[int, int]
"""How many durations fell into each bucket."""

MAX_BUCKET = 165
"""The last bucket. It has all durations from 24 days on."""
_SHORTEST = 2.0**-20


def bucket_of(seconds: float) -> int:
    """Return the bucket of a duration, from 0 to `MAX_BUCKET`.

    Bucket 0 has all durations below a microsecond, also negative ones.
    """
    if seconds < _SHORTEST:
        return 0
    fraction, exponent = frexp(seconds)
    bucket = 4 * exponent + int(8 * fraction) + 73
    if bucket > MAX_BUCKET:
        return MAX_BUCKET
    return bucket


def lower_bound(bucket: int) -> float:
    """Return the shortest duration of a bucket, in seconds; ``lower_bound(bucket + 1)`` ends it.

    Every fourth bucket begins at a power of two of a second: bucket 81 at 1 s.
    """
    if bucket == 0:
        return 0.0
    octave, quarter = divmod(bucket - 1, 4)
    return float((1 + quarter / 4) * 2.0 ** (octave - 20))


def merged(histograms: Iterable[Histogram]) -> dict[int, int]:
    """Return the sum of histograms."""
    total: dict[int, int] = defaultdict(int)
    for histogram in histograms:
        for bucket, count in histogram.items():
            total[bucket] += count
    return dict(total)


def quantile(histogram: Histogram, share: float) -> float | None:
    """Return the duration, in seconds, that ``share`` of the durations do not exceed.

    The durations of a bucket are taken to lie evenly in it.

    :param share: from 0 to 1; 0.95 is the 95th percentile.
    :returns: ``None`` if the histogram is empty.
    """
    rank = share * sum(histogram.values())
    below = 0
    for bucket in sorted(histogram):
        count = histogram[bucket]
        if count and below + count >= rank:
            start, end = lower_bound(bucket), lower_bound(bucket + 1)
            return start + (end - start) * max(rank - below, 0.0) / count
        below += count
    return None


def encode(histogram: Histogram) -> list[int]:
    """Return a histogram as the database keeps it: bucket, count, bucket, count, …"""
    return [number for bucket in sorted(histogram) for number in (bucket, histogram[bucket])]


def decode(numbers: Sequence[int]) -> dict[int, int]:
    """Return the histogram that `encode` has written."""
    return dict(zip(numbers[::2], numbers[1::2], strict=True))
