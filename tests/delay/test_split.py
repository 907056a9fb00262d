"""A batch in two: every record is in one of them, in its place."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.delay.split import may_have_wishes, split
from dduomq.errors import InvalidRecord
from dduomq.wire.batch import TRANSACTIONAL, read_header, set_producer
from dduomq.wire.compress import Compression
from dduomq.wire.records import decode, encode

NOW = 1_800_000_000_000
RECORD = st.tuples(
    st.integers(NOW - 1_000, NOW), st.none() | st.binary(max_size=5), st.none() | st.binary(max_size=20),
    st.sampled_from([[], [("a", b"b")], [("dduomq-delay", b"1500")], [("a", None), ("dduomq-deliver-at", b"1")]]),
)  # fmt: skip


def is_delayed(headers):
    return any(name.startswith("dduomq-de") for name, _ in headers)


@given(st.lists(RECORD, min_size=1, max_size=12), st.sampled_from(Compression))
def test_no_record_is_lost_or_changed(records, compression):
    batch = encode(records, compression=compression)
    set_producer(batch, 7, 2, 40)
    parts = split(batch, NOW)
    if not any(is_delayed(headers) for *_, headers in records):
        assert parts is None
        return
    wishes, rest = parts
    header, before = read_header(rest), read_header(batch)
    assert (header.producer_id, header.producer_epoch, header.base_sequence) == (7, 2, 40)
    assert header.last_offset_delta == before.last_offset_delta == len(records) - 1
    assert header.last_sequence == before.last_sequence
    found = {one.offset: one for one in decode(rest)} | {wish.delta: wish.record for wish in wishes}
    shown = [(found[at].timestamp_ms, found[at].key, found[at].value, list(found[at].headers)) for at in sorted(found)]
    assert shown == records
    assert {wish.delta for wish in wishes} == {at for at, (*_, headers) in enumerate(records) if is_delayed(headers)}
    assert may_have_wishes(batch, before, compressed=True)


def test_a_transaction_delays_nothing():
    batch = encode([(NOW, None, b"x", [("dduomq-delay", b"5")])])
    batch[22] |= TRANSACTIONAL
    with pytest.raises(InvalidRecord):
        split(batch, NOW)


def test_plain_batches_are_not_decoded():
    plain = encode([(NOW, None, b"x" * 100, [])])
    assert not may_have_wishes(plain, read_header(plain), compressed=True)
    packed = encode([(NOW, None, b"x" * 100, [("dduomq-delay", b"5")])], compression=Compression.GZIP)
    assert not may_have_wishes(packed, read_header(packed), compressed=False)
    assert may_have_wishes(packed, read_header(packed), compressed=True)
