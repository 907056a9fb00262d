"""A record batch with only those of its records that a filter wants, as compaction would leave it.

Always true: a batch that comes out has the offsets, times, producer and kind of the one that went in, so a
reader's position behind it is the same; the records in it are the stored bytes, not written anew. What can't be
read goes out as it is: its reader must learn of the damage, and a new CRC would hide it.
"""

from collections.abc import Callable, Iterator
from typing import Any

from dduomq.errors import CorruptMessage
from dduomq.limits import DECOMPRESSED_BYTES_MAX
from dduomq.query.terms import Properties
from dduomq.wire.batch import COMPRESSION_MASK, HEADER_BYTES, BatchHeader, build, is_whole, read_header
from dduomq.wire.compress import Compression, compress, decompress
from dduomq.wire.records import Headers, open_batch

Range = tuple[int, int]


class _Seen:
    """A record as a filter sees it. One object serves all records of a batch: to make one costs more than to look
    at it, so `matches` may not keep it."""

    __slots__ = ("headers", "key", "timestamp_ms")

    headers: Headers
    key: bytes | None
    timestamp_ms: int


def sift(
    batch: memoryview, matches: Callable[[Properties], bool], *, bytes_max: int = DECOMPRESSED_BYTES_MAX
) -> tuple[bytes | None, int]:
    """(batch, count) of the records that match; None for the batch where it may go out as it is.

    That is when all match, for a control batch, and for one that can't be read; then the count is its header's.
    What came compressed goes out so by the same codec, unless it is smaller without: an answer must not outgrow
    what was stored by more than a stronger compressor's lead.
    """
    try:
        header = read_header(batch)
    except CorruptMessage:
        return None, 0
    if header.is_control or not header.count or not is_whole(batch, 0, header):
        return None, header.count
    try:
        whole = _uncompressed(batch[: header.size], header, bytes_max)
        ranges, count = _wanted(whole, header, matches)
    except CorruptMessage:
        return None, header.count
    if count == header.count:
        return None, count
    return _rebuild(b"".join([whole[begin:end] for begin, end in ranges]), header, count), count


def _uncompressed(batch: memoryview, header: BatchHeader, bytes_max: int) -> memoryview:
    """The same batch without compression; raises `CorruptMessage`."""
    if not header.attributes & COMPRESSION_MASK:
        return batch
    plain = decompress(header.compression, batch[HEADER_BYTES:], bytes_max)
    return memoryview(_build(plain, header, header.count, Compression.NONE))


def _build(records: bytes, header: BatchHeader, count: int, codec: Compression) -> bytearray:
    """A batch with all that `header` says, around other records."""
    return build(
        records, count=count, last_offset_delta=header.last_offset_delta, base_timestamp=header.base_timestamp,
        max_timestamp=header.max_timestamp, base_offset=header.base_offset, leader_epoch=header.leader_epoch,
        attributes=header.attributes & ~COMPRESSION_MASK | codec, producer_id=header.producer_id,
        producer_epoch=header.producer_epoch, base_sequence=header.base_sequence,
    )  # fmt: skip


def _rebuild(plain: bytes, header: BatchHeader, count: int) -> bytes:
    codec = Compression(header.compression)
    if codec is not Compression.NONE:
        packed = compress(codec, plain)
        if len(packed) < len(plain):
            return bytes(_build(packed, header, count, codec))
    return bytes(_build(plain, header, count, Compression.NONE))


def _wanted(whole: memoryview, header: BatchHeader, matches: Callable[[Properties], bool]) -> tuple[list[Range], int]:
    """Where in `whole` the records lie that match, neighbours as one, and their number; raises `CorruptMessage`."""
    ranges: list[Range] = []
    count, at, begin = 0, HEADER_BYTES, -1
    seen = _Seen()
    append_time = header.max_timestamp if header.is_log_append_time else None
    for record in _records(whole):
        end = _end_of(whole, at)
        seen.headers, seen.key = record.headers, record.key
        seen.timestamp_ms = record.timestamp if append_time is None else append_time
        if matches(seen):
            count += 1
            begin = at if begin < 0 else begin
        elif begin >= 0:
            ranges.append((begin, at))
            begin = -1
        at = end
    if at != len(whole):
        raise CorruptMessage("the records end before their batch")
    if begin >= 0:
        ranges.append((begin, at))
    return ranges, count


def _records(whole: memoryview) -> Iterator[Any]:
    """The codec's records, one at a time: a batch may hold a million; its errors as `CorruptMessage`."""
    try:
        yield from open_batch(whole)
    except Exception as error:  # the codec has a class for each kind of damage
        raise CorruptMessage(f"the batch's records can't be read: {error}") from error


def _end_of(whole: memoryview, at: int) -> int:
    """Where the record at `at` ends, which the codec has read already: behind its length, a zigzag varint."""
    byte = whole[at]
    length, shift = byte & 0x7F, 7
    while byte & 0x80:
        at += 1
        byte = whole[at]
        length |= (byte & 0x7F) << shift
        shift += 7
    return at + 1 + (length >> 1)
