"""The pure parts: sets of offsets, what is still to be copied, what a copy says."""

import hypothesis.strategies as st
from hypothesis import given

from dduomq.groups.aside import NOWHERE, Outbox, fresh
from dduomq.groups.letters import Source, copy_headers, origin_of, plain_headers
from dduomq.groups.records import AsideRecord
from dduomq.ids import DEAD, DELAYED_GROUP, RETRY, check_topic_name, group_topic_name
from dduomq.wire import origin
from dduomq.wire.ranges import Ranges, flat_of
from dduomq.wire.records import StoredRecord

PLACE = ("00" * 16, 0)


@given(
    st.lists(
        st.tuples(st.sampled_from(["add", "drop"]), st.integers(0, 60), st.integers(0, 8)), max_size=40
    )
)  # fmt: skip
def test_ranges_are_a_set(steps):
    ranges, oracle = Ranges(), set()
    for what, first, more in steps:
        if what == "add":
            ranges.add(first, first + more)
            oracle.update(range(first, first + more + 1))
        else:
            ranges.drop_below(first)
            oracle = {offset for offset in oracle if offset >= first}
        assert list(ranges) == sorted(oracle)
        assert ranges.count() == len(oracle)
        assert all((offset in ranges) == (offset in oracle) for offset in range(70))
        flat = ranges.flat
        assert all(a <= b for a, b in zip(flat[::2], flat[1::2], strict=True))
        assert all(b + 1 < a for b, a in zip(flat[1:-1:2], flat[2::2], strict=True))  # nothing that could be one
        assert list(Ranges(flat)) == list(ranges)
    assert flat_of(oracle) == ranges.flat


def record(number, offsets, to=RETRY):
    return AsideRecord(number, to, 1_000, 900, "boom", "", flat_of(offsets))


@given(st.lists(st.tuples(st.integers(1, 5), st.booleans()), max_size=30), st.data())
def test_the_outbox_is_what_its_log_says(steps, data):
    """Whenever it is written down and read again, the same copies wait, under the same numbers."""
    outbox, offset = Outbox(), 0
    for size, hands in steps:
        outbox.add("g", PLACE, record(outbox.next_number, range(offset, offset + size * 2, 2)))
        offset += size * 2
        if hands and len(outbox):
            outbox.hand(data.draw(st.integers(outbox.handed, outbox.next_number - 1)))
        again = Outbox()
        again.hand(outbox.handed)
        for group, place, one in outbox.records():
            again.add(group, place, one)
            again.add(group, place, one)  # read twice: from before and after it was written anew
        numbers = [(copy.number, copy.offset) for copy in outbox.head(1_000)]
        assert [(copy.number, copy.offset) for copy in again.head(1_000)] == numbers
        assert numbers == sorted(numbers)


def test_what_goes_together_has_one_way():
    outbox = Outbox()
    outbox.add("g", PLACE, record(1, [5, 6]))
    outbox.add("g", PLACE, record(3, [9], DEAD))
    outbox.add("h", PLACE, record(4, [10], DEAD))
    outbox.add("h", PLACE, record(5, [11], NOWHERE))
    assert [copy.offset for copy in outbox.head(10)] == [5, 6]
    assert [copy.offset for copy in outbox.head(1)] == [5]
    outbox.hand(2)
    assert [copy.offset for copy in outbox.head(10)] == [9]
    outbox.hand(3)
    assert [(copy.group, copy.offset) for copy in outbox.head(10)] == [("h", 10)]
    outbox.hand(4)
    assert len(outbox) == 0


def test_only_what_is_new_is_set_aside():
    held = Ranges((3, 5))
    assert fresh([7, 4, 2, 2], held) == [2, 7]


def test_a_copy_says_where_the_record_was_first_stored():
    stored = StoredRecord(17, 123, b"k", b"v", [("own", b"1"), (origin.ATTEMPT_HEADER, b"99")])
    first = copy_headers(
        stored, Source("orders", 3, ""), group="billing", to=RETRY, failed_ms=5, error="boom", reason=""
    )
    said = dict(first)
    assert said["own"] == b"1"
    assert said[origin.ATTEMPT_HEADER] == b"1", "what a producer has written there counts for nothing"
    assert (said[origin.ORIGIN_TOPIC_HEADER], said[origin.ORIGIN_PARTITION_HEADER]) == (b"orders", b"3")
    assert (said[origin.ORIGIN_OFFSET_HEADER], said[origin.ORIGIN_TIME_HEADER]) == (b"17", b"123")
    assert (said[origin.ERROR_HEADER], said[origin.GROUP_HEADER]) == (b"boom", b"billing")
    assert len(first) == len(said)

    again = StoredRecord(2, 456, b"k", b"v", first)
    second = dict(
        copy_headers(again, Source("retry.billing", 0, RETRY), group="billing", to=DEAD, failed_ms=9, error="bang",
                     reason="it was tried 2 times")
    )  # fmt: skip
    assert second[origin.ATTEMPT_HEADER] == b"2"
    assert second[origin.ORIGIN_OFFSET_HEADER] == b"17"
    assert (second[origin.ERROR_HEADER], second[origin.REASON_HEADER]) == (b"bang", b"it was tried 2 times")

    letter = StoredRecord(0, 789, b"k", b"v", list(second.items()))
    redriven = dict(
        copy_headers(
            letter, Source("dlq.billing", 0, DEAD), group="billing", to=RETRY, failed_ms=9, error="", reason=""
        )
    )
    assert redriven[origin.ATTEMPT_HEADER] == b"0", "it begins anew"
    assert origin.REASON_HEADER not in redriven
    came = origin_of(letter, Source("dlq.billing", 0, DEAD))
    assert (came.topic, came.partition, came.offset, came.timestamp_ms) == ("orders", 3, 17, 123)
    assert plain_headers(letter, Source("dlq.billing", 0, DEAD)) == [("own", b"1")]


def test_a_groups_topic_has_a_legal_name_of_its_own():
    assert group_topic_name(RETRY, "billing") == "retry.billing"
    assert group_topic_name(DEAD, DELAYED_GROUP) == "dlq.delayed"
    names = {group_topic_name(DEAD, group) for group in ("a b", "a_b", "a/b", "delayed", "x" * 900, "x" * 901, "ü")}
    assert len(names) == 7
    assert "dlq.delayed" not in names
    for name in names:
        assert check_topic_name(name) == name
        assert len(name) <= 200
