"""Sifting a batch: what is left is what a reader of a compacted log would meet."""

import struct

import pytest
from aiokafka.record.default_records import DefaultRecordBatch as Compiled
from aiokafka.record.default_records import _DefaultRecordBatchPy as Plain
from hypothesis import given, settings
from hypothesis import strategies as st
from kafka.record.default_records import DefaultRecordBatch as KafkaPython

from dduomq.client.consumer import Decoder
from dduomq.query.filter import compile_filter
from dduomq.query.sift import sift
from dduomq.wire import records
from dduomq.wire.batch import (
    CONTROL,
    HEADER_BYTES,
    TRANSACTIONAL,
    build,
    check_batches,
    crc_of,
    read_header,
    set_producer,
    stamp,
    stamp_append_time,
)
from dduomq.wire.compress import Compression, compress

BASE, EPOCH = 1_000, 4


def batch_of(given_records, compression=Compression.NONE, *, base=BASE, producer=True):
    data = records.encode(given_records, compression=compression)
    if producer:
        set_producer(data, 77, 3, 5)
    stamp(data, 0, base, EPOCH)
    return memoryview(bytes(data))


def numbered(count, size=20):
    return [(5_000 + 7 * i, b"%d" % i, b"v" * size, [("n", b"%d" % i), ("h", None)]) for i in range(count)]


def patched(batch, attributes=0, **fields):
    """The same records under another header."""
    header = read_header(batch)
    said = {
        "count": header.count, "last_offset_delta": header.last_offset_delta, "base_timestamp": header.base_timestamp,
        "max_timestamp": header.max_timestamp, "base_offset": header.base_offset, "leader_epoch": header.leader_epoch,
        "producer_id": header.producer_id, "producer_epoch": header.producer_epoch,
        "base_sequence": header.base_sequence, "attributes": header.attributes | attributes, **fields,
    }  # fmt: skip
    return memoryview(bytes(build(bytes(batch[HEADER_BYTES:]), **said)))


def shown(batch):
    return [(r.offset, r.timestamp_ms, r.key, r.value, list(r.headers)) for r in records.decode(batch)]


def unchanged(header):
    return (
        header.base_offset, header.last_offset_delta, header.leader_epoch, header.base_timestamp, header.max_timestamp,
        header.producer_id, header.producer_epoch, header.base_sequence, header.attributes & ~7,
    )  # fmt: skip


@settings(max_examples=60, deadline=None)
@pytest.mark.parametrize("compression", list(Compression))
@given(wanted=st.lists(st.booleans(), min_size=1, max_size=30), size=st.sampled_from([0, 30, 70, 4_090, 9_000]))
def test_what_is_left_is_what_matches(compression, wanted, size):
    """Offsets, times, identity and CRC are those of the stored batch, under every compression."""
    batch = batch_of(numbered(len(wanted), size), compression)
    expected = [found for found, kept in zip(shown(batch), wanted, strict=True) if kept]
    answers = iter(wanted)
    out, count = sift(batch, lambda view: next(answers))
    assert count == sum(wanted)
    if all(wanted):
        assert out is None
        return
    assert type(out) is bytes
    ((_, header),) = check_batches(out)
    assert header.count == count
    assert unchanged(header) == unchanged(read_header(batch))
    assert header.compression in (compression, Compression.NONE)
    assert shown(out) == expected


@pytest.mark.parametrize("compression", list(Compression))
@pytest.mark.parametrize("text", ["n >= 3 AND n < 7", "n = 9", "n = 0", "n IN ('1', '3', '8')", "gone"])
def test_readers_read_it_and_end_at_the_right_place(compression, text):
    """Our client, aiokafka (compiled and plain) and kafka-python."""
    batch = batch_of(numbered(10), compression)
    wanted = compile_filter(text)
    expected = [r for r in records.decode(batch) if wanted.matches(r)]
    out, count = sift(batch, wanted.matches)
    assert out is not None
    assert count == len(expected)
    decoder = Decoder("t", 0, BASE, None)
    following = batch_of(numbered(1), base=BASE + 10)
    found = decoder.decode(memoryview(out + bytes(following)), [])
    assert [r.offset for r in found] == [*(r.offset for r in expected), BASE + 10]
    assert decoder.position == BASE + 11
    decoder = Decoder("t", 0, BASE + 4, None)
    found = decoder.decode(memoryview(out), [])
    assert [r.offset for r in found] == [r.offset for r in expected if r.offset >= BASE + 4]
    assert decoder.position == BASE + 10
    kafka_python = [KafkaPython] if compression in (Compression.NONE, Compression.GZIP) else []  # else it needs more
    for reader in (Compiled, Plain, *kafka_python):
        other = reader(bytearray(out))
        assert other.validate_crc()
        assert [(r.offset, r.timestamp, r.key, r.value) for r in other] == [
            (r.offset, r.timestamp_ms, r.key, r.value) for r in expected
        ]
        if reader is not KafkaPython:
            assert other.next_offset == BASE + 10


@pytest.mark.parametrize("compression", list(Compression))
def test_what_is_left_can_be_sifted_again(compression):
    """A batch with gaps, as compaction or an earlier sifting leaves it."""
    batch = batch_of(numbered(10), compression)
    out, _ = sift(batch, compile_filter("n >= 4").matches)
    again, count = sift(memoryview(out), compile_filter("n < 6").matches)
    assert ([r[0] for r in shown(again)], count) == ([BASE + 4, BASE + 5], 2)
    assert sift(memoryview(out), compile_filter("n < 60").matches) == (None, 6)
    empty, count = sift(memoryview(out), compile_filter("n > 60").matches)
    assert (len(empty), count) == (HEADER_BYTES, 0)
    assert sift(memoryview(empty), compile_filter("n < 60").matches) == (None, 0)


@pytest.mark.parametrize("compression", list(Compression))
def test_append_time_and_transactions_stay(compression):
    """The time type with its one time, and the transactional bit."""
    batch = patched(batch_of(numbered(4), compression), TRANSACTIONAL)
    changed = bytearray(batch)
    stamp_append_time(changed, 0, read_header(changed), 9_999)
    out, count = sift(memoryview(changed), compile_filter("TIMESTAMP = 9999 AND n = 2").matches)
    header = read_header(out)
    assert count == 1
    assert header.is_transactional
    assert header.is_log_append_time
    assert shown(out) == [shown(changed)[2]]
    assert shown(out)[0][1] == 9_999


def test_compression_is_kept():
    """What was small stays small."""
    for compression in list(Compression)[1:]:
        batch = batch_of(numbered(200, 100), compression)
        out, _ = sift(batch, compile_filter("n < 150").matches)
        assert read_header(out).compression == compression
        assert len(out) < 200 * 100 / 2


def never(view):
    raise AssertionError("nobody is asked")


def test_control_batches_pass():
    """Markers of transactions are no records of anybody."""
    batch = patched(batch_of(numbered(1)), TRANSACTIONAL | CONTROL)
    assert sift(batch, never) == (None, 1)


def test_damage_passes_untouched():
    """A new CRC would hide it from the reader."""
    good = batch_of(numbered(3))
    payload = bytes(good[HEADER_BYTES:])
    wrong_crc = bytearray(good)
    wrong_crc[-1] ^= 1
    nobody = compile_filter("gone").matches
    for damaged in (
        memoryview(wrong_crc), good[:-1], patched(good, 7), patched(good, Compression.ZSTD), patched(good, count=4),
        patched(good, count=2), patched(good, count=2**31 - 1),
        memoryview(build(payload[:-1], count=3, last_offset_delta=2, base_timestamp=0, max_timestamp=0)),
        memoryview(build(payload + b"\x00", count=3, last_offset_delta=2, base_timestamp=0, max_timestamp=0)),
    ):  # fmt: skip
        assert sift(damaged, nobody) == (None, read_header(damaged).count)
    assert sift(good[:30], nobody) == (None, 0)


def test_what_would_become_too_large_passes_untouched():
    """The cap on decompressed bytes holds here too."""
    plain = bytes(records.encode(numbered(1, 100_000)))[HEADER_BYTES:]
    small = build(
        compress(Compression.ZSTD, plain), count=1, last_offset_delta=0, base_timestamp=0, max_timestamp=0, attributes=4
    )
    nobody = compile_filter("gone").matches
    assert sift(memoryview(small), nobody, bytes_max=100_000) == (None, 1)
    out, count = sift(memoryview(small), nobody, bytes_max=200_000)
    assert (len(out), count) == (HEADER_BYTES, 0)


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_damage_under_a_right_crc_is_borne(data):
    """Whatever stands in the records: a batch, or None."""
    batch = bytearray(batch_of(numbered(5, 3), producer=False))
    for _ in range(data.draw(st.integers(1, 3))):
        batch[data.draw(st.integers(HEADER_BYTES, len(batch) - 1))] = data.draw(st.integers(0, 255))
    struct.pack_into(">I", batch, 17, crc_of(batch, 0, len(batch)))
    out, count = sift(memoryview(batch), compile_filter("n > 2").matches)
    if out is not None:
        assert len(records.decode(out)) == count


def test_a_fault_of_the_caller_is_not_hidden():
    """Only what is wrong with the batch is borne."""
    with pytest.raises(AssertionError, match="nobody"):
        sift(batch_of(numbered(2)), never)
