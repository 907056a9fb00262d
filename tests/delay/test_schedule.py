"""When a recurring message comes: rules, time zones, missed times."""

import itertools
from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.delay.schedule import PAUSED_MS, Missed, Schedule, decode, make
from dduomq.errors import InvalidSchedule

ZURICH = ZoneInfo("Europe/Zurich")


def ms(*fields, zone=UTC, fold=0):
    return int(datetime(*fields, tzinfo=zone, fold=fold).timestamp() * 1000)


def times(rule, start, count, *, timezone="UTC"):
    """The next times, seen from `start` on."""
    schedule, found = make("s", rule, timezone, "once", start), []
    for _ in range(count):
        start = schedule.next_after(start)
        found.append(start)
    return found


def test_cron():
    start = ms(2027, 1, 1, 8, 59, 59)
    assert times("cron 0 9 * * MON-FRI", start, 3) == [ms(2027, 1, 1, 9), ms(2027, 1, 4, 9), ms(2027, 1, 5, 9)]
    assert times("cron */20 * * * * *", start, 2) == [ms(2027, 1, 1, 9), ms(2027, 1, 1, 9, 0, 20)]
    assert times("cron 0 0 29 2 *", start, 1) == [ms(2028, 2, 29)]


def test_a_time_that_daylight_saving_leaves_out_comes_behind_the_gap():
    """On 28 March 2027 Zurich's clocks go from 2 to 3."""
    found = times("cron 30 2 * * *", ms(2027, 3, 27, 12, zone=ZURICH), 2, timezone="Europe/Zurich")
    assert found == [ms(2027, 3, 28, 3, zone=ZURICH), ms(2027, 3, 29, 2, 30, zone=ZURICH)]


def test_a_time_that_daylight_saving_brings_twice_comes_once():
    """On 31 October 2027 they go back from 3 to 2; what comes every half hour comes every half hour."""
    found = times("cron 30 2 * * *", ms(2027, 10, 30, 12, zone=ZURICH), 2, timezone="Europe/Zurich")
    assert found == [ms(2027, 10, 31, 2, 30, zone=ZURICH), ms(2027, 11, 1, 2, 30, zone=ZURICH)]
    halves = times("cron */30 * * * *", ms(2027, 10, 31, 1, 30, zone=ZURICH), 4, timezone="Europe/Zurich")
    assert [b - a for a, b in itertools.pairwise(halves)] == [1_800_000] * 3


def test_intervals_count_from_the_start():
    assert times("every 90s", 1_000, 3) == [91_000, 181_000, 271_000]
    assert make("s", "every 10s", "UTC", "once", 5).next_after(123_456) == 130_005


@pytest.mark.parametrize(
    ("rule", "timezone"),
    [
        ("", "UTC"), ("cron", "UTC"), ("cron * * * *", "UTC"), ("cron 61 * * * *", "UTC"), ("cron 0 0 30 2 *", "UTC"),
        ("every", "UTC"), ("every now", "UTC"), ("every -5s", "UTC"), ("every 1ms", "UTC"), ("weekly", "UTC"),
        ("cron 0 0 * * *", "Mars/Olympus"), ("cron 0 0 * * *", ""), ("cron 0 0 * * *", "../etc/passwd"),
        ("cron " + "*" * 300, "UTC"),
    ],
)  # fmt: skip
def test_rules_that_are_none(rule, timezone):
    with pytest.raises(InvalidSchedule):
        make("s", rule, timezone, "once", 0)


@given(st.text(max_size=30), st.text(max_size=10))
def test_any_text_is_a_rule_or_refused(rule, timezone):
    for text in (rule, f"cron {rule}", f"every {rule}"):
        try:
            assert make("s", text, timezone, "once", 0).next_after(10**12) > 10**12
        except InvalidSchedule:
            continue


def test_names_and_policies():
    for name in ("", "x" * 300, "a\nb"):
        with pytest.raises(InvalidSchedule):
            make(name, "every 1s", "UTC", "once", 0)
    with pytest.raises(InvalidSchedule):
        make("s", "every 1s", "UTC", "sometimes", 0)


@pytest.mark.parametrize(
    ("missed", "comes", "following"),
    [(Missed.ALL, True, 120_000), (Missed.ONCE, True, 660_000), (Missed.SKIP, False, 660_000)],
)
def test_missed_times(missed, comes, following):
    schedule = Schedule("s", "every 60s", "UTC", missed, 0)
    assert schedule.after(60_000, 60_004) == (True, 120_000)
    assert schedule.after(60_000, 600_500) == (comes, following)


def test_paused():
    schedule = Schedule("s", "every 60s", "UTC", Missed.ONCE, 0, is_paused=True)
    assert schedule.due(5) == PAUSED_MS
    assert decode(schedule.encode()) == schedule
