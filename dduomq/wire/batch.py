"""Kafka's record batch v2, as bytes: read the header, check the CRC, stamp an offset.

Always true: nothing here looks at a record. Offsets and the leader epoch lie outside the CRC, so a stored
batch is the producer's own bytes with those two fields written in place.

Layout, big-endian (https://kafka.apache.org/documentation/#recordbatch):
base_offset i64 · batch_length i32 (bytes after this field) · partition_leader_epoch i32 · magic i8 = 2 ·
crc u32 (CRC-32C of everything after it) · attributes i16 · last_offset_delta i32 · base_timestamp i64 ·
max_timestamp i64 · producer_id i64 · producer_epoch i16 · base_sequence i32 · count i32, then the records.
"""

import struct
from collections.abc import Iterator

import attrs
from crc32c import crc32c

from dduomq.errors import CorruptMessage
from dduomq.ports import Buffer

HEADER = struct.Struct(">qiibIhiqqqhii")
HEADER_BYTES = HEADER.size  # 61
LENGTH_PREFIX_BYTES = 12  # base_offset and batch_length, which batch_length does not count
CRC_START = 21  # the first byte the CRC covers
MAGIC = 2
NO_PRODUCER_ID = -1
OWN_PRODUCER_IDS = 1 << 60  # from here on they are the broker's own: no client gets one, and none expires
HANDOVER_IDS = OWN_PRODUCER_IDS + (1 << 32)  # of owners that hand messages over to a wheel: never in a batch
NO_SEQUENCE = -1
NO_TIMESTAMP = -1
SEQUENCE_MAX = 2**31 - 1

COMPRESSION_MASK = 0x07
LOG_APPEND_TIME = 0x08
TRANSACTIONAL = 0x10
CONTROL = 0x20

_LENGTH = struct.Struct(">8xi")
_U32 = struct.Struct(">I")
_I64 = struct.Struct(">q")
_I16 = struct.Struct(">h")


@attrs.frozen(slots=True)
class BatchHeader:
    """The 61 bytes before the records. `size` is the whole batch on disk, prefix included."""

    base_offset: int
    size: int
    leader_epoch: int
    crc: int
    attributes: int
    last_offset_delta: int
    base_timestamp: int
    max_timestamp: int
    producer_id: int
    producer_epoch: int
    base_sequence: int
    count: int

    @property
    def last_offset(self) -> int:
        return self.base_offset + self.last_offset_delta

    @property
    def next_offset(self) -> int:
        return self.base_offset + self.last_offset_delta + 1

    @property
    def last_sequence(self) -> int:
        """The sequence of the last record; it wraps from 2^31 - 1 to 0."""
        if self.base_sequence == NO_SEQUENCE:
            return NO_SEQUENCE
        return (self.base_sequence + self.last_offset_delta) & SEQUENCE_MAX

    @property
    def compression(self) -> int:
        return self.attributes & COMPRESSION_MASK

    @property
    def is_log_append_time(self) -> bool:
        return bool(self.attributes & LOG_APPEND_TIME)

    @property
    def is_transactional(self) -> bool:
        return bool(self.attributes & TRANSACTIONAL)

    @property
    def is_control(self) -> bool:
        return bool(self.attributes & CONTROL)


def read_header(view: Buffer, position: int = 0) -> BatchHeader:
    """The header at `position`; raises `CorruptMessage` unless it is a v2 header with a possible shape.

    Only the header must be inside `view`; the records may lie beyond its end.
    """
    if len(view) - position < HEADER_BYTES:
        raise CorruptMessage(f"a record batch header has {HEADER_BYTES} bytes, {len(view) - position} are here")
    (
        base,
        length,
        epoch,
        magic,
        crc,
        attributes,
        delta,
        first_ts,
        max_ts,
        pid,
        pepoch,
        seq,
        count,
    ) = HEADER.unpack_from(view, position)
    if magic != MAGIC:
        raise CorruptMessage(f"record batch has magic {magic}, only 2 is spoken here")
    size = length + LENGTH_PREFIX_BYTES
    if size < HEADER_BYTES or delta < 0 or count < 0 or base < 0:
        raise CorruptMessage(f"record batch has an impossible shape: length {length}, count {count}, delta {delta}")
    return BatchHeader(base, size, epoch, crc, attributes, delta, first_ts, max_ts, pid, pepoch, seq, count)


def crc_of(view: Buffer, position: int, size: int) -> int:
    """CRC-32C of the batch of `size` bytes at `position`."""
    return crc32c(memoryview(view)[position + CRC_START : position + size])


def is_whole(view: Buffer, position: int, header: BatchHeader) -> bool:
    """Whether all of the batch is inside `view` and its CRC is right."""
    return position + header.size <= len(view) and crc_of(view, position, header.size) == header.crc


def check_batches(view: Buffer) -> list[tuple[int, BatchHeader]]:
    """Every (position, header) of a buffer that holds whole batches and nothing else, CRC checked.

    Raises `CorruptMessage` that says what is wrong and where.
    """
    found = []
    position = 0
    while position < len(view):
        header = read_header(view, position)
        if position + header.size > len(view):
            raise CorruptMessage(
                f"record batch at byte {position} says it has {header.size} bytes, {len(view) - position} are here"
            )
        if crc_of(view, position, header.size) != header.crc:
            raise CorruptMessage(f"record batch at byte {position} has a wrong CRC")
        found.append((position, header))
        position += header.size
    return found


def iter_headers(view: Buffer, position: int = 0) -> Iterator[tuple[int, BatchHeader]]:
    """(position, header) of each batch wholly inside `view`; stops quietly at a part of one."""
    end = len(view)
    while end - position >= HEADER_BYTES:
        (length,) = _LENGTH.unpack_from(view, position)
        if length + LENGTH_PREFIX_BYTES > end - position:
            return
        header = read_header(view, position)
        yield position, header
        position += header.size


def stamp(view: bytearray | memoryview, position: int, base_offset: int, leader_epoch: int) -> None:
    """Write the place of a batch into it. The CRC stays right: it does not cover these fields."""
    _I64.pack_into(view, position, base_offset)
    struct.pack_into(">i", view, position + LENGTH_PREFIX_BYTES, leader_epoch)


def stamp_append_time(view: bytearray | memoryview, position: int, header: BatchHeader, now_ms: int) -> BatchHeader:
    """Turn the batch's time type to LogAppendTime at `now_ms`; the CRC is computed again."""
    attributes = header.attributes | LOG_APPEND_TIME
    _I16.pack_into(view, position + CRC_START, attributes)
    _I64.pack_into(view, position + 35, now_ms)
    crc = crc_of(view, position, header.size)
    _U32.pack_into(view, position + 17, crc)
    return attrs.evolve(header, attributes=attributes, max_timestamp=now_ms, crc=crc)


def build(
    records: bytes,
    *,
    count: int,
    last_offset_delta: int,
    base_timestamp: int,
    max_timestamp: int,
    base_offset: int = 0,
    leader_epoch: int = 0,
    attributes: int = 0,
    producer_id: int = NO_PRODUCER_ID,
    producer_epoch: int = -1,
    base_sequence: int = NO_SEQUENCE,
) -> bytearray:
    """A whole batch around already encoded `records`, CRC and all."""
    out = bytearray(HEADER_BYTES + len(records))
    HEADER.pack_into(
        out, 0, base_offset, len(out) - LENGTH_PREFIX_BYTES, leader_epoch, MAGIC, 0, attributes,
        last_offset_delta, base_timestamp, max_timestamp, producer_id, producer_epoch, base_sequence, count,
    )  # fmt: skip
    out[HEADER_BYTES:] = records
    _U32.pack_into(out, 17, crc_of(out, 0, len(out)))
    return out


def set_producer(view: bytearray | memoryview, producer_id: int, producer_epoch: int, base_sequence: int) -> None:
    """Write a producer's identity into a finished batch; the CRC is computed again."""
    struct.pack_into(">qhi", view, 43, producer_id, producer_epoch, base_sequence)
    _U32.pack_into(view, 17, crc_of(view, 0, len(view)))
