"""The records inside a batch: encode and decode, by aiokafka's compiled codec.

Always true: a decoded batch has as many records as its header says, or `CorruptMessage` is raised. The CRC is
not looked at here: see `wire.batch`. The codec is imported when first used: a broker seldom needs it.
"""

from collections.abc import Container, Iterable, Iterator, Sequence
from functools import cache
from typing import Any

import attrs

from dduomq.errors import CorruptMessage
from dduomq.limits import BATCH_BYTES_CEILING, DECOMPRESSED_BYTES_MAX, RECORDS_PER_BATCH_MAX
from dduomq.ports import Buffer
from dduomq.wire.batch import COMPRESSION_MASK, HEADER_BYTES, LOG_APPEND_TIME, build, read_header
from dduomq.wire.compress import Compression, compress, decompress

Headers = Sequence[tuple[str, bytes | None]]
RECORD_OVERHEAD_BYTES_MAX = 36


@attrs.frozen(slots=True)
class StoredRecord:
    """One record as the log has it."""

    offset: int
    timestamp_ms: int
    key: bytes | None
    value: bytes | None
    headers: Headers


@cache
def _codec() -> Any:
    from aiokafka.record import default_records

    return default_records


class BatchBuilder:
    """Collects records of one partition into one batch. Sizes are upper bounds while it grows."""

    __slots__ = ("_append", "_builder", "_compression", "count", "first_timestamp", "max_timestamp")

    def __init__(self, compression: Compression = Compression.NONE, bytes_max: int = BATCH_BYTES_CEILING) -> None:
        self._compression = compression
        self._builder = _codec().DefaultRecordBatchBuilder(
            magic=2, compression_type=0, is_transactional=0, producer_id=-1, producer_epoch=-1, base_sequence=-1,
            batch_size=bytes_max,
        )  # fmt: skip
        self._append = self._builder.append
        self.count = 0
        self.first_timestamp = -1
        self.max_timestamp = -1

    def append(
        self,
        timestamp_ms: int,
        key: bytes | None,
        value: bytes | None,
        headers: Headers,
        delta: int | None = None,
    ) -> bool:
        """Add a record; False when the batch would grow past its bound. `delta`: its place, where some are missing."""
        place = self.count if delta is None else delta
        if self._append(place, timestamp=timestamp_ms, key=key, value=value, headers=headers) is None:
            return False
        if not self.count:
            self.first_timestamp = timestamp_ms
        if timestamp_ms > self.max_timestamp:
            self.max_timestamp = timestamp_ms
        self.count += 1
        return True

    @property
    def size(self) -> int:
        """Bytes before compression, header included."""
        return int(self._builder.size())

    def build(self) -> bytearray:
        """The finished batch, without a producer's identity."""
        plain: bytearray = self._builder.build()
        if self._compression is Compression.NONE:
            return plain
        return build(
            compress(self._compression, memoryview(plain)[HEADER_BYTES:]),
            count=self.count,
            last_offset_delta=self.count - 1,
            base_timestamp=self.first_timestamp,
            max_timestamp=self.max_timestamp,
            attributes=int(self._compression),
        )


def size_of(key: bytes | None, value: bytes | None, headers: Headers) -> int:
    """The most that a record may take in a batch, before compression."""
    size = RECORD_OVERHEAD_BYTES_MAX + len(key or b"") + len(value or b"")
    for name, content in headers:
        size += 10 + len(name) * 4 + len(content or b"")
    return size


def encode(
    records: Iterable[tuple[int, bytes | None, bytes | None, Headers]],
    *,
    compression: Compression = Compression.NONE,
) -> bytearray:
    """A batch of (timestamp_ms, key, value, headers); at least one."""
    builder = BatchBuilder(compression)
    for timestamp_ms, key, value, headers in records:
        if not builder.append(timestamp_ms, key, value, headers):
            raise CorruptMessage("the records don't fit into one batch")
    return builder.build()


def encode_one(value: bytes | None, *, timestamp_ms: int, key: bytes | None = None, headers: Headers = ()) -> bytearray:
    """A batch with one record."""
    return encode([(timestamp_ms, key, value, list(headers))])


def open_batch(batch: Buffer, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> Any:
    """The codec's iterator over a whole batch, decompressed: records with offset, timestamp, key, value, headers.

    Raises `CorruptMessage`; so may the iteration, as one of the codec's own errors.
    """
    header = read_header(batch)
    if header.count > RECORDS_PER_BATCH_MAX:
        raise CorruptMessage(f"a batch of {header.count} records, {RECORDS_PER_BATCH_MAX} is the most")
    if header.attributes & COMPRESSION_MASK:
        plain = decompress(header.compression, memoryview(batch)[HEADER_BYTES : header.size], bytes_max)
        batch = build(
            plain, count=header.count, last_offset_delta=header.last_offset_delta,
            base_timestamp=header.base_timestamp, max_timestamp=header.max_timestamp, base_offset=header.base_offset,
            attributes=header.attributes & ~COMPRESSION_MASK,
        )  # fmt: skip
    return _codec().DefaultRecordBatch(batch)


def iterate(batch: Buffer, bytes_max: int = DECOMPRESSED_BYTES_MAX) -> Iterator[Any]:
    """`open_batch` that raises nothing but `CorruptMessage`."""
    try:
        yield from open_batch(batch, bytes_max)
    except CorruptMessage:
        raise
    except Exception as error:  # the codec has a class for each kind of damage
        raise CorruptMessage(f"the batch's records can't be read: {error}") from error


def decode(
    batch: Buffer, *, only: Container[int] | None = None, bytes_max: int = DECOMPRESSED_BYTES_MAX
) -> list[StoredRecord]:  # fmt: skip
    """The records of one whole batch, all or those at these offsets; raises `CorruptMessage`."""
    header = read_header(batch)
    append_time = header.max_timestamp if header.attributes & LOG_APPEND_TIME else None
    return [
        StoredRecord(r.offset, r.timestamp if append_time is None else append_time, r.key, r.value, r.headers)
        for r in iterate(batch, bytes_max)
        if only is None or r.offset in only
    ]
