"""Histograms of durations, with buckets on a logarithmic scale of base 2.

Between two powers of two lie four buckets, so a bound is at most 25 % above the one before. A
histogram is a plain dict of the counts that are not zero, by bucket.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from typing import TypeAlias

Histogram: TypeAlias = Mapping[int, int]
"""How many durations fell into each bucket."""

MAX_BUCKET = 165
"""The last bucket. It has all durations from 24 days on; bucket 0 has those below a microsecond."""
DIGITS = 12
"""Decimal digits of a stored count."""
_OFFSET = 4 * (1023 - 20) - 1


def count_buckets(durations: Iterable[float]) -> dict[int, int]:
    """Return the histogram of durations in seconds; takes 0.1 µs for each of a hundred.

    The exponent and the first two bits of a float's fraction are the bucket, apart from an offset.
    """
    bits = memoryview(array("d", durations)).cast("B").cast("Q")
    found: dict[int, int] = {}
    # Without the bit of the sign: a wait may be -0.0.
    for start, count in Counter([number >> 50 & 8191 for number in bits]).items():
        bucket = min(max(start - _OFFSET, 0), MAX_BUCKET)
        found[bucket] = found.get(bucket, 0) + count
    return found


def lower_bound(bucket: int) -> float:
    """Return the shortest duration of a bucket, in seconds; ``lower_bound(bucket + 1)`` ends it.

    Every fourth bucket begins at a power of two of a second: bucket 81 at 1 s.
    """
    if bucket == 0:
        return 0.0
    octave, quarter = divmod(bucket - 1, 4)
    return float((1 + quarter / 4) * 2.0 ** (octave - 20))


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


def encode(histogram: Histogram) -> str:
    """Return a histogram as the database keeps it: one whole number, with `DIGITS` for each bucket.

    The last digits are the count of bucket 0. So the sum of such numbers is the sum of the
    histograms, and Postgres adds them fast.
    """
    highest = max(histogram, default=0)
    return "".join(f"{histogram.get(bucket, 0):0{DIGITS}}" for bucket in range(highest, -1, -1))


def decode(text: str) -> dict[int, int]:
    """Return the histogram of such a number."""
    end = len(text)
    zeros = end - len(text.rstrip("0"))
    found: dict[int, int] = {}
    for bucket in range(zeros // DIGITS, -(-end // DIGITS)):
        last = end - DIGITS * bucket
        count = int(text[max(last - DIGITS, 0) : last])
        if count:
            found[bucket] = count
    return found
