"""The ticks of cron expressions: parsing, refusals, and clock changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest

from roost._model.schedule import Schedule
from roost.exceptions import InvalidSettingError

DAY = timedelta(days=1)


def local_ticks(expression: str, zone: str, after: str, count: int) -> list[str]:
    """Return the first ticks after a local time, as local times with their offset."""
    begin = datetime.fromisoformat(after).replace(tzinfo=ZoneInfo(zone))
    ticks = Schedule(expression, zone).ticks(after=begin, until=begin + 3000 * DAY)
    return [
        tick.astimezone(ZoneInfo(zone)).strftime("%m-%d %H:%M%z") for tick in islice(ticks, count)
    ]


def utc_ticks(expression: str, after: str, count: int) -> list[str]:
    begin = datetime.fromisoformat(after).replace(tzinfo=UTC)
    ticks = Schedule(expression).ticks(after=begin, until=begin + 30_000 * DAY)
    return [f"{tick:%a %Y-%m-%d %H:%M:%S}" for tick in islice(ticks, count)]


# Refusals and their messages.


@pytest.mark.parametrize(
    ("expression", "said"),
    [
        ("61 * * * *", "'61' is not a valid minute"),
        ("* 24 * * *", "'24' is not a valid hour"),
        ("* * 0 * *", "'0' is not a valid day of month"),
        ("* * * 13 *", "'13' is not a valid month"),
        ("* * * * 8", "'8' is not a valid day of week"),
        ("* * * * mox", "'mox' is not a valid day of week"),
        ("* * * * * 60", "'60' is not a valid second"),
        ("*/0 * * * *", "'*/0' is not a valid minute"),
        ("1-5/0 * * * *", "'1-5/0' is not a valid minute"),
        ("*/5-5 * * * *", "'*/5-5' is not a valid minute"),
        ("1, * * * *", "'1,' is not a valid minute"),
        ("-1 * * * *", "'-1' is not a valid minute"),
        ("r * * * *", "'r' is not a valid minute"),
        ("h(0-5) * * * *", "'h(0-5)' is not a valid minute"),
        ("* H * * *", "'h' is not a valid hour"),
        ("* * * *", "has 4 fields, not 5"),
        ("* * * * * * 2030", "has 7 fields, not 5"),
        ("@fortnightly", "is not one of @annually, @daily, "),
        ("0 0 31 2 *", "never fires"),
        ("0 0 30 2 mon#1,tue#1", "can't be combined with the day of month '30'"),
        ("", "must be text, not ''"),
        ("   ", "must be text"),
        (None, "must be text, not None"),
        (["* * * * *"], "must be text"),
    ],
)
def test_a_bad_expression_is_refused_with_its_field(expression: str, said: str) -> None:
    with pytest.raises(InvalidSettingError) as refused:
        Schedule(expression)
    assert said in str(refused.value)
    if isinstance(expression, str) and expression.strip():
        assert repr(expression) in str(refused.value)


@pytest.mark.parametrize(
    "zone", ["Berlin", "Europe/Nowhere", "", "../../etc/passwd", "Europe", 7, "a\0b"]
)
def test_a_bad_time_zone_is_refused(zone: str) -> None:
    with pytest.raises(InvalidSettingError, match="is not an IANA name such as 'Europe/Berlin'"):
        Schedule("* * * * *", zone)


# Parsing.


@pytest.mark.parametrize(
    ("name", "means"),
    [
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@hourly", "0 * * * *"),
        (" @DAILY ", "0 0 * * *"),
        ("0 9 * JAN-mar Mon-FRI", "0 9 * 1,2,3 1,2,3,4,5"),
    ],
)
def test_names_of_months_and_days_are_read(name: str, means: str) -> None:
    assert utc_ticks(name, "2026-01-01", 8) == utc_ticks(means, "2026-01-01", 8)


def test_a_sixth_field_is_the_second() -> None:
    assert utc_ticks("0 12 * * * */20", "2026-06-01", 4) == [
        "Mon 2026-06-01 12:00:00",
        "Mon 2026-06-01 12:00:20",
        "Mon 2026-06-01 12:00:40",
        "Tue 2026-06-02 12:00:00",
    ]
    assert utc_ticks("* * * * * 7", "2026-06-01", 2) == [
        "Mon 2026-06-01 00:00:07",
        "Mon 2026-06-01 00:01:07",
    ]


def test_the_next_tick_is_after_the_moment_to_the_microsecond() -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    for expression in ("0 * * * *", "0 12,13 * * *", "0 * * * * 0"):
        next_after = Schedule(expression).next_after
        assert next_after(noon - timedelta(microseconds=1)) == noon
        assert next_after(noon) == noon + timedelta(hours=1)
        assert next_after(noon + timedelta(microseconds=1)) == noon + timedelta(hours=1)


def test_the_moment_may_be_in_any_zone() -> None:
    noon = datetime(2026, 6, 1, 12, tzinfo=UTC)
    tick = Schedule("30 14 * * *", "Europe/Berlin").next_after(
        noon.astimezone(ZoneInfo("Asia/Tokyo"))
    )
    assert tick == datetime(2026, 6, 1, 12, 30, tzinfo=UTC)
    assert tick.tzinfo is UTC


# Expressions that croniter misreads.


@pytest.mark.parametrize(
    ("expression", "means"),
    [
        ("0 0 28-28 * *", "0 0 28 * *"),
        ("0 0 5-5/2 * *", "0 0 5 * *"),
        ("0 0 05-5 * *", "0 0 5 * *"),
        ("0 0 1,7-7,9 * *", "0 0 1,7,9 * *"),
        ("0 0 * jan-jan *", "0 0 * 1 *"),
        ("0 0 * * mon-1", "0 0 * * 1"),
        ("0 0 * * 7-7", "0 0 * * 0"),
        ("0 0 * * 7-0", "0 0 * * 0"),
        ("0 0 * * 7-2", "0 0 * * 0,1,2"),
        ("0 0 * * 5-7", "0 0 * * 5,6,0"),
        ("0 0 * * 1-7/2", "0 0 * * 1,3,5,0"),
        ("0 0 * * sat-sun", "0 0 * * 6,0"),
        ("0 0-0 * * *", "0 0 * * *"),
        ("0 22-3/2 * * *", "0 22,0,2 * * *"),
        ("0 23-1/2 * * *", "0 23,1 * * *"),
        ("59-0 0 * * *", "59,0 0 * * *"),
        ("0 0 1 1 * 5-5", "0 0 1 1 * 5"),
    ],
)
def test_a_range_means_each_of_its_values(expression: str, means: str) -> None:
    assert utc_ticks(expression, "2026-01-01", 20) == utc_ticks(means, "2026-01-01", 20)


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        # Neither begins with a star: either may match, as in cron.
        ("0 0 13 * 5", ["Fri 2026-01-02", "Fri 2026-01-09", "Tue 2026-01-13"]),
        ("0 0 1-31 * 1", ["Fri 2026-01-02", "Sat 2026-01-03", "Sun 2026-01-04"]),
        # One begins with a star: both must match.
        ("0 0 */2 * 1", ["Mon 2026-01-05", "Mon 2026-01-19", "Mon 2026-02-09"]),
        ("0 0 13 * */5", ["Fri 2026-02-13", "Fri 2026-03-13", "Sun 2026-09-13"]),
        ("0 0 */2 * mon#1", ["Mon 2026-01-05", "Mon 2026-06-01", "Mon 2026-08-03"]),
        ("0 0 l * *", ["Sat 2026-01-31", "Sat 2026-02-28", "Tue 2026-03-31"]),
    ],
)
def test_day_fields_restrict_as_in_cron(expression: str, days: list[str]) -> None:
    ticks = utc_ticks(expression, "2026-01-01T12:00", 3)
    assert [tick.removesuffix(" 00:00:00") for tick in ticks] == days


def test_a_leap_day_is_found() -> None:
    assert utc_ticks("0 0 29 2 *", "2097-01-01", 2) == [
        "Fri 2104-02-29 00:00:00",  # 2100 is not a leap year
        "Wed 2108-02-29 00:00:00",
    ]


# The clock goes back: Berlin, 2026-10-25, 03:00+02:00 is 02:00+01:00.


def test_a_daily_entry_fires_once_when_the_clock_goes_back() -> None:
    assert local_ticks("30 2 * * *", "Europe/Berlin", "2026-10-24T12:00", 2) == [
        "10-25 02:30+0200",
        "10-26 02:30+0100",
    ]


def test_an_hourly_entry_fires_each_real_hour_when_the_clock_goes_back() -> None:
    assert local_ticks("0 * * * *", "Europe/Berlin", "2026-10-25T00:30", 5) == [
        "10-25 01:00+0200",
        "10-25 02:00+0200",
        "10-25 02:00+0100",
        "10-25 03:00+0100",
        "10-25 04:00+0100",
    ]


def test_minutes_with_a_star_fire_in_both_equal_hours() -> None:
    ticks = local_ticks("*/20 2 * * *", "Europe/Berlin", "2026-10-25T00:30", 7)
    assert ticks[:6] == [f"10-25 02:{m:02}{o}" for o in ("+0200", "+0100") for m in (0, 20, 40)]
    assert ticks[6] == "10-26 02:00+0100"


def test_a_list_of_times_fires_once_each_when_the_clock_goes_back() -> None:
    assert local_ticks("0,30 1-3 * * *", "Europe/Berlin", "2026-10-25T00:30", 7) == [
        "10-25 01:00+0200",
        "10-25 01:30+0200",
        "10-25 02:00+0200",
        "10-25 02:30+0200",
        "10-25 03:00+0100",
        "10-25 03:30+0100",
        "10-26 01:00+0100",
    ]


@pytest.mark.parametrize("fold", [0, 1])
def test_a_start_within_the_repeated_hour_repeats_no_tick(fold: int) -> None:
    half_past = datetime(2026, 10, 25, 2, 30, fold=fold, tzinfo=ZoneInfo("Europe/Berlin"))
    tick = Schedule("0-59 2-3 * * * 0-59", "Europe/Berlin").next_after(half_past)
    passed = tick - half_past.astimezone(UTC)
    assert passed == (timedelta(minutes=30) if fold else timedelta(seconds=1))


# The clock goes forward: Berlin, 2026-03-29, 02:00+01:00 is 03:00+02:00.


def test_a_time_in_the_gap_fires_once_at_its_end() -> None:
    assert local_ticks("30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == [
        "03-29 03:00+0200",
        "03-30 02:30+0200",
    ]
    assert local_ticks("0,15,30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == [
        "03-29 03:00+0200",
        "03-30 02:00+0200",
    ]


def test_a_skipped_time_and_the_end_of_the_gap_are_one_tick() -> None:
    assert local_ticks("0 2,3 * * *", "Europe/Berlin", "2026-03-28T12:00", 2) == [
        "03-29 03:00+0200",
        "03-30 02:00+0200",
    ]


def test_an_hourly_entry_does_not_fire_in_the_skipped_hour() -> None:
    assert local_ticks("0 * * * *", "Europe/Berlin", "2026-03-29T00:30", 3) == [
        "03-29 01:00+0100",
        "03-29 03:00+0200",
        "03-29 04:00+0200",
    ]
    assert local_ticks("*/30 2 * * *", "Europe/Berlin", "2026-03-28T12:00", 1) == [
        "03-30 02:00+0200"
    ]


# Unusual time zones.


def test_lord_howe_repeats_and_skips_half_an_hour() -> None:
    lord_howe = "Australia/Lord_Howe"
    # Back on 2026-04-05, 02:00+11:00 is 01:30+10:30.
    assert local_ticks("*/15 * * * *", lord_howe, "2026-04-05T01:20", 6) == [
        "04-05 01:30+1100",
        "04-05 01:45+1100",
        "04-05 01:30+1030",
        "04-05 01:45+1030",
        "04-05 02:00+1030",
        "04-05 02:15+1030",
    ]
    assert local_ticks("45 1 * * *", lord_howe, "2026-04-04T12:00", 2) == [
        "04-05 01:45+1100",
        "04-06 01:45+1030",
    ]
    # Forward on 2026-10-04, 02:00+10:30 is 02:30+11:00.
    assert local_ticks("15 2 * * *", lord_howe, "2026-10-03T12:00", 2) == [
        "10-04 02:30+1100",
        "10-05 02:15+1100",
    ]


def test_the_day_that_samoa_skipped_fires_at_its_end() -> None:
    # The date line was moved: 2011-12-29 was followed by 2011-12-31.
    assert local_ticks("0 9 * * *", "Pacific/Apia", "2011-12-28T12:00", 4) == [
        "12-29 09:00-1000",
        "12-31 00:00+1400",
        "12-31 09:00+1400",
        "01-01 09:00+1400",
    ]
    assert local_ticks("0 */6 * * *", "Pacific/Apia", "2011-12-29T11:00", 4) == [
        "12-29 12:00-1000",
        "12-29 18:00-1000",
        "12-31 00:00+1400",
        "12-31 06:00+1400",
    ]


def test_an_offset_with_seconds_is_respected() -> None:
    # Amsterdam had +00:19:32 until 1937.
    begin = datetime(1936, 1, 1, tzinfo=UTC)
    tick = Schedule("0 12 * * *", "Europe/Amsterdam").next_after(begin)
    assert tick.astimezone(ZoneInfo("Europe/Amsterdam")).strftime("%H:%M:%S") == "12:00:00"


# The newest ticks of a long time span.

NOW = datetime(2026, 7, 15, 12, 0, 30, tzinfo=UTC)


@pytest.mark.parametrize("most", [1, 3, 100])
@pytest.mark.parametrize(
    ("expression", "back"),
    [
        ("* * * * *", timedelta(hours=3)),
        ("*/7 * * * * */30", timedelta(hours=1)),
        ("0 3 * * *", timedelta(days=200)),
        ("0 0 1 1 *", timedelta(days=2000)),
        ("5 5 5 5 *", timedelta(days=30)),
        ("30 2 * * *", timedelta(minutes=1)),
    ],
)
def test_the_last_ticks_are_the_last_of_all_ticks(
    expression: str, back: timedelta, most: int
) -> None:
    schedule = Schedule(expression, "Europe/Berlin")
    every = list(schedule.ticks(after=NOW - back, until=NOW))
    assert schedule.last_until(NOW, after=NOW - back, limit=most) == every[-most:]


def test_a_tick_at_either_end_counts_at_the_newer_one_only() -> None:
    schedule = Schedule("* * * * *")
    noon = NOW.replace(second=0)
    assert schedule.last_until(noon, after=noon - timedelta(minutes=1)) == [noon]
    assert schedule.last_until(noon, after=noon) == []


def test_many_old_ticks_are_not_enumerated(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0
    real = Schedule.next_after

    def counted(self: Schedule, moment: datetime) -> datetime:
        nonlocal looks
        looks += 1
        return real(self, moment)

    monkeypatch.setattr(Schedule, "next_after", counted)
    # 172,800 ticks in the first two days of each January.
    schedule = Schedule("* * 1,2 1 * *", "Europe/Berlin")
    [last] = schedule.last_until(NOW, after=NOW - 5000 * DAY)
    assert last.astimezone(ZoneInfo("Europe/Berlin")).isoformat() == "2026-01-02T23:59:59+01:00"
    assert looks < 1000
