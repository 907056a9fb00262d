"""A batch in two: the records that are to come later, and the rest as it is stored now.

A pure machine. Always true: the rest has the batch's own producer, sequence and last offset, with holes where records
were taken out, as compaction leaves them: so each record has an offset, and a retry is still a duplicate.
"""

import attrs

from dduomq.errors import InvalidRecord, InvariantBroken
from dduomq.limits import DECOMPRESSED_BYTES_MAX
from dduomq.ports import Buffer
from dduomq.wire.batch import COMPRESSION_MASK, HEADER_BYTES, BatchHeader, build, read_header
from dduomq.wire.compress import Compression, compress, decompress
from dduomq.wire.delay import due_ms, mentions_delay
from dduomq.wire.records import RECORD_OVERHEAD_BYTES_MAX, BatchBuilder, StoredRecord, decode

KNOWN = frozenset(Compression)


@attrs.frozen
class Wish:
    """A record that is to come at `due_ms`; `delta` is its place in the batch."""

    delta: int
    due_ms: int
    record: StoredRecord


def may_have_wishes(batch: Buffer, header: BatchHeader, *, compressed: bool) -> bool:
    """Whether the batch must be looked through; `compressed`: one that is compressed must, for what is in it."""
    if not header.compression:
        return mentions_delay(memoryview(batch)[HEADER_BYTES:])
    return compressed and header.compression in KNOWN


def split(batch: Buffer, now_ms: int) -> tuple[list[Wish], bytearray] | None:
    """The wishes and the rest; None if no record has one. Raises `InvalidDelay`, `InvalidRecord`, `CorruptMessage`."""
    header = read_header(batch)
    if header.compression and not mentions_delay(
        decompress(header.compression, memoryview(batch)[HEADER_BYTES:], DECOMPRESSED_BYTES_MAX)
    ):
        return None
    records = decode(batch)
    wishes, rest = [], []
    for record in records:
        due = due_ms(record.headers, now_ms)
        if due is None:
            rest.append(record)
        else:
            wishes.append(Wish(record.offset - header.base_offset, due, record))
    if not wishes:
        return None
    if header.count != header.last_offset_delta + 1:
        raise InvalidRecord(f"a batch of {header.count} records with last offset delta {header.last_offset_delta}")
    if header.is_transactional or header.is_control:
        raise InvalidRecord("a record of a transaction can't be delayed: send it outside of one")
    return wishes, _rebuilt(header, rest)


def _rebuilt(header: BatchHeader, rest: list[StoredRecord]) -> bytearray:
    """The batch with these records only, each in its place."""
    records, attributes = b"", header.attributes
    first, last = header.base_timestamp, header.max_timestamp
    if rest:
        builder = BatchBuilder(bytes_max=DECOMPRESSED_BYTES_MAX + len(rest) * RECORD_OVERHEAD_BYTES_MAX)
        for record in rest:
            delta = record.offset - header.base_offset
            if not builder.append(record.timestamp_ms, record.key, record.value, record.headers, delta):
                raise InvariantBroken("what was one batch does not fit into one any more")
        plain = memoryview(builder.build())[HEADER_BYTES:]
        records = compress(Compression(attributes & COMPRESSION_MASK), plain)
        first, last = builder.first_timestamp, builder.max_timestamp
    else:
        attributes &= ~COMPRESSION_MASK
    return build(
        records, count=len(rest), last_offset_delta=header.last_offset_delta, base_timestamp=first,
        max_timestamp=last, attributes=attributes, producer_id=header.producer_id,
        producer_epoch=header.producer_epoch, base_sequence=header.base_sequence,
    )  # fmt: skip
