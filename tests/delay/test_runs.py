"""A batch of a wheel's log read at once, against its records read one by one."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.delay import records, runs
from dduomq.delay.handover import origin_of
from dduomq.delay.records import NEW, NO_ORIGIN, Cancelled, Delivered, Fired, Handed, Parked, Position, Target
from dduomq.delay.replay import Replay
from dduomq.delay.runs import Run
from dduomq.delay.schedule import make
from dduomq.errors import CorruptMessage, InvariantBroken
from dduomq.wire.batch import HANDOVER_IDS, stamp
from dduomq.wire.records import BatchBuilder, decode, encode_one

START = 1_700_000_000_000
FIRST = 1_000
TARGETS = [Target("t", "ab" * 16, 0), Target("t", "ab" * 16, 1), Target("überlang" * 20, "cd" * 16, 0)]
SCHEDULE = make("beat", "every 5s", "UTC", "once", START).encode()
BYTES = st.one_of(st.none(), st.binary(max_size=40))
ORIGINS = st.sampled_from([NO_ORIGIN, (7, 0, 0), (7, 0, 5), (8, 3, 0), origin_of(HANDOVER_IDS + 1, 2**31 + 1)])
PAIRS = st.lists(st.tuples(st.integers(START, START + 10), st.integers(0, 40)), max_size=3).map(tuple)
PARKED = st.builds(
    Parked, st.integers(START, START + 10**9), st.one_of(st.just(NEW), st.integers(0, FIRST - 1)), st.just(-1),
    st.sampled_from(TARGETS), ORIGINS, BYTES, BYTES, st.just([("h", b"x")]), st.sampled_from([b"", b"", b"", SCHEDULE]),
)  # fmt: skip
OTHERS = st.one_of(
    st.builds(Fired, st.just(-1), st.sampled_from(TARGETS), st.integers(0, 9), st.integers(0, 99), PAIRS),
    st.builds(Delivered, st.lists(st.integers(0, 99), max_size=3).map(tuple)),
    st.builds(Cancelled, PAIRS),
    st.builds(Cancelled, PAIRS, st.sampled_from(TARGETS), ORIGINS),
    st.builds(Position, st.sampled_from(TARGETS), st.integers(0, 9), st.integers(0, 99)),
    st.builds(Handed, st.just(HANDOVER_IDS), st.integers(0, 2**40)),
)


def encoded(one):
    match one:
        case Parked():
            return records.encode_parked(one)
        case Fired():
            return records.encode_fired(one)
        case Delivered():
            return records.encode_delivered(one.fired)
        case Cancelled():
            return records.encode_cancelled(one.pairs, one.target, one.origin)
        case Position():
            return records.encode_position(one)
    return records.encode_handed(one)


def batch_of(entries):
    builder = BatchBuilder()
    for key, value, headers in entries:
        assert builder.append(START, key, value, headers)
    data = builder.build()
    stamp(data, 0, FIRST, 0)
    return data


def taken_apart(said):
    """(due, number, offset, target, origin, whether it was moved) of each message; other records as they are."""
    found = []
    for one in said:
        if not isinstance(one, Run):
            found.append(one)
            continue
        assert one.starts[0] == 0
        assert all(first < second for first, second in pairwise(one.starts))
        at = -1
        for n, row in enumerate(zip(one.dues, one.numbers, one.offsets, strict=True)):
            at += n in one.starts
            found.append((*row, one.target, one.origins[at], one.is_moved))
    return found


def by_place(found):
    """Messages between two other records in the order of their offsets."""
    parts = [[]]
    for one in found:
        if isinstance(one, tuple):
            parts[-1].append(one)
        else:
            parts += [[one], []]
    return [sorted(part, key=lambda one: one[2]) if part and isinstance(part[0], tuple) else part for part in parts]


def one_by_one(data):
    found = []
    for record in decode(data):
        one = records.decode(record)
        if isinstance(one, Parked) and not one.schedule:
            one = (one.due_ms, one.number, one.offset, one.target, one.origin, one.number != one.offset)
        found.append(one)
    return found


@given(st.lists(st.one_of(PARKED, PARKED, PARKED, OTHERS), min_size=1, max_size=30))
def test_it_is_what_the_records_say(ones):
    data = batch_of([encoded(one) for one in ones])
    said = runs.read(data)
    assert by_place(taken_apart(said)) == by_place(one_by_one(data))
    size = sum(
        len(one.key or b"") + len(one.value or b"") for one in ones if isinstance(one, Parked) and not one.schedule
    )
    assert sum(one.size_bytes for one in said if isinstance(one, Run)) == size


@given(st.lists(st.one_of(PARKED, PARKED, PARKED, OTHERS), min_size=1, max_size=30))
def test_a_replay_of_runs_is_one_of_records(ones):
    data, wheels = batch_of([encoded(one) for one in ones]), []
    for said in (runs.read(data), [records.decode(record) for record in decode(data)]):
        replay = Replay(START)
        for one in said:
            replay.apply(one)
        wheels.append((replay.finish(), replay.lost))
    (one, lost), (other, lost_too) = wheels
    assert sorted(entry[:3] for entry in one.entries((-1, -1), None)) == sorted(
        entry[:3] for entry in other.entries((-1, -1), None)
    )
    assert lost == lost_too
    for name in ("handed", "sequences", "scheduled", "count", "bytes_waiting"):
        assert getattr(one, name) == getattr(other, name)
    assert one.open == other.open
    for target in TARGETS:
        for origin in ((7, 0, 0), (7, 0, 5), (8, 3, 0)):
            assert one.recent.find(target, origin) == other.recent.find(target, origin)


def test_what_no_release_has_written_stops_the_reading():
    for key in (b"", b"\x01", b"\x01\x01", b"\x01\x02" + bytes(80), b"\x63\x01", b"\x02\x01\x00"):
        with pytest.raises(InvariantBroken):
            runs.read(encode_one(b"", timestamp_ms=START, key=key))
    data = batch_of([encoded(Handed(HANDOVER_IDS, 1))])
    with pytest.raises(CorruptMessage):
        runs.read(data[:-3])
