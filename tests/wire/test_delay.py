"""What a record may say of when it wants to come."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.errors import DelayedNotFound, InvalidDelay
from dduomq.limits import DELAY_MS_MAX
from dduomq.wire.delay import (
    DELAY_LEVELS,
    delay_id,
    due_ms,
    length_ms,
    mentions_delay,
    moment_ms,
    parse_delay,
    parse_delay_id,
    parse_deliver_at,
)

NOW = 1_800_000_000_000


@pytest.mark.parametrize(
    ("text", "ms"),
    [
        ("0", 0), ("1500", 1_500), ("1ms", 1), ("1.5s", 1_500), ("0.0001s", 1), ("10m", 600_000), ("2h", 7_200_000),
        ("7d", 604_800_000), ("1 s", 1_000), ("0.5", 1), ("1.000001d", 86_400_087),
    ],
)  # fmt: skip
def test_lengths(text, ms):
    """Rounded up to a millisecond: never early."""
    assert parse_delay(text) == ms


@pytest.mark.parametrize("text", ["", "-1", "+1", "1y", "one", "1e3", "1s2", "s", ".5s", "0x10", "9" * 16, "nan", "１"])
def test_lengths_that_are_none(text):
    with pytest.raises(InvalidDelay):
        parse_delay(text)


def test_times():
    assert parse_deliver_at("1800000000000") == NOW
    assert parse_deliver_at("2027-01-15T08:00:00Z") == NOW
    assert parse_deliver_at("2027-01-15T10:00:00.000001+02:00") == NOW + 1
    for wrong in ("2027-01-15T08:00:00", "2027-13-01T00:00:00Z", "tomorrow", "-5", "1" * 19):
        with pytest.raises(InvalidDelay):
            parse_deliver_at(wrong)


@given(st.binary(max_size=40))
def test_any_header_is_understood_or_refused(content):
    for name in ("dduomq-delay", "dduomq-deliver-at"):
        try:
            due = due_ms([(name, content)], NOW)
        except InvalidDelay:
            continue
        assert NOW <= due <= NOW + DELAY_MS_MAX


def test_headers():
    assert due_ms([("a", b"b")], NOW) is None
    assert due_ms([("dduomq-delay", b"5")], NOW) == NOW + 5
    assert due_ms([("dduomq-deliver-at", b"7")], NOW) == NOW
    for wrong in ([("dduomq-delay", None)], [("dduomq-delay", b"1"), ("dduomq-delay", b"1")]):
        with pytest.raises(InvalidDelay):
            due_ms(wrong, NOW)


@given(st.datetimes(min_value=datetime(1900, 1, 1), timezones=st.just(UTC)))
def test_moments_are_rounded_up(moment):
    ms = moment_ms(moment)
    since = moment - datetime(1970, 1, 1, tzinfo=UTC)
    assert timedelta(milliseconds=ms - 1) < since <= timedelta(milliseconds=ms)


def test_lengths_in_pythons_words():
    assert length_ms(0.0011) == 2
    assert length_ms(timedelta(days=1)) == 86_400_000
    for wrong in (-1, float("nan"), float("inf"), "5"):
        with pytest.raises(InvalidDelay):
            length_ms(wrong)


def test_levels_are_rocketmqs():
    assert len(DELAY_LEVELS) == 18
    assert (DELAY_LEVELS[0], DELAY_LEVELS[4], DELAY_LEVELS[17]) == tuple(map(timedelta, (0,) * 3, (1, 60, 7200)))


def test_what_is_looked_for_is_found():
    assert mentions_delay(memoryview(b"..dduomq-delay.."))
    assert mentions_delay(b"dduomq-deliver-at")
    assert not mentions_delay(memoryview(b"dduomq-tag"))


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.sampled_from([b"dduomq-delay", b"dduomq-deliver-at"]))
def test_it_is_found_anywhere_in_buffers_of_any_size(before, behind, name):
    for fill in (b"\x00", b"d", b"\xff"):
        assert mentions_delay(memoryview(bytearray(fill * before + name + fill * behind)))
        assert not mentions_delay(memoryview(bytearray(fill * before + name[:-5][:8] + fill * behind)))


@given(st.integers(0, 100), st.integers(0, 10**17), st.integers(0, 10**17))
def test_ids(wheel, due, number):
    assert parse_delay_id(delay_id(wheel, due, number)) == (wheel, due, number)


@pytest.mark.parametrize("text", ["", "1", "1-2", "1-2-3-4", "a-b-c", "1--2", "-1-2-3", "1-2-" + "9" * 30])
def test_ids_that_are_none(text):
    with pytest.raises(DelayedNotFound):
        parse_delay_id(text)
