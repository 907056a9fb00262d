"""Records and compressions: round trips, caps, damage."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dduomq.errors import CorruptMessage, InvalidConfig
from dduomq.wire import compress, records
from dduomq.wire.batch import check_batches, read_header, set_producer, stamp, stamp_append_time
from dduomq.wire.compress import Compression

maybe_bytes = st.none() | st.binary(max_size=50)
headers = st.lists(st.tuples(st.text(max_size=9), maybe_bytes), max_size=3)
RECORDS = st.lists(
    st.tuples(st.integers(0, 2**40), maybe_bytes, maybe_bytes, headers),
    min_size=1,
    max_size=20,
)


@pytest.mark.parametrize("compression", list(Compression))
@given(given_records=RECORDS)
def test_what_is_encoded_is_decoded(compression, given_records):
    """Times, keys, values, headers and offsets, under every compression."""
    data = records.encode(given_records, compression=compression)
    ((_, header),) = check_batches(data)
    assert (header.count, header.compression) == (len(given_records), compression)
    found = records.decode(data)
    assert [(r.timestamp_ms, r.key, r.value, list(r.headers)) for r in found] == given_records
    assert [r.offset for r in found] == list(range(len(given_records)))


@pytest.mark.parametrize("compression", list(Compression))
def test_a_batch_that_would_become_too_large_is_refused(compression):
    """A small batch must not fill the memory."""
    data = compress.compress(compression, bytes(1_000_000))
    assert compress.decompress(compression, data, 1_000_000) == bytes(1_000_000)
    if compression is not Compression.NONE:
        with pytest.raises(CorruptMessage):
            compress.decompress(compression, data, 999_999)


@given(st.sampled_from(list(Compression)), st.binary(max_size=300))
def test_random_bytes_are_data_or_corrupt(compression, data):
    """Decompressing raises nothing else."""
    with contextlib.suppress(CorruptMessage):
        compress.decompress(compression, data, 100_000)


@given(st.data())
def test_a_damaged_batch_is_records_or_corrupt(data):
    """Any one byte changed: the CRC tells, and even without looking at it nothing else is raised."""
    batch = records.encode([(1, b"k", b"value", [("h", b"x")])] * 3)
    at = data.draw(st.integers(0, len(batch) - 1))
    batch[at] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(CorruptMessage):
        records.decode(batch)


def test_stamps_change_only_their_fields():
    """Offset and epoch lie outside the CRC; time and producer are signed anew."""
    batch = records.encode([(1, None, b"v", [])])
    stamp(batch, 0, 41, 7)
    check_batches(batch)
    header = stamp_append_time(batch, 0, read_header(batch), 99)
    check_batches(batch)
    set_producer(batch, 5, 1, 10)
    ((_, last),) = check_batches(batch)
    assert (last.base_offset, last.leader_epoch, last.max_timestamp) == (41, 7, 99)
    assert (last.producer_id, last.producer_epoch, last.base_sequence) == (5, 1, 10)
    assert header.is_log_append_time


def test_compressions_are_known_by_name():
    """A wrong name lists the right ones."""
    assert compress.parse("zstd") is Compression.ZSTD
    with pytest.raises(InvalidConfig, match="none, gzip, snappy, lz4, zstd"):
        compress.parse("brotli")
