"""Aborted transactions: which producer's records, between which offsets, readers of committed data must skip.

Kafka's `.txnindex`: 34 bytes an entry, big-endian, one file beside the segment that holds the abort marker.
Always true: entries rise by their last offset, the marker's own; committed transactions have no entry.
"""

import struct
from array import array

from dduomq.ports import Buffer
from dduomq.wire.batch import HEADER_BYTES

SUFFIX = ".txnindex"
VERSION = 0
ENTRY = struct.Struct(">hqqqq")
ENTRY_BYTES = ENTRY.size
ABORT, COMMIT, UNREADABLE = 0, 1, -1
_MARKER = struct.Struct(">hh")
_FIELDS = 4
_LAST = 2


class Aborted:
    """The aborted transactions of one log: 32 bytes each."""

    __slots__ = ("_fields",)

    def __init__(self) -> None:
        self._fields = array("q")  # producer id, first offset, last offset, last stable offset behind it

    def __len__(self) -> int:
        return len(self._fields) // _FIELDS

    def add(self, producer_id: int, first_offset: int, last_offset: int, last_stable_offset: int) -> None:
        self._fields.extend((producer_id, first_offset, last_offset, last_stable_offset))

    def _from(self, offset: int) -> int:
        """The first entry whose last offset is at or after `offset`."""
        fields, low, high = self._fields, 0, len(self)
        while low < high:
            middle = (low + high) // 2
            if fields[middle * _FIELDS + _LAST] < offset:
                low = middle + 1
            else:
                high = middle
        return low

    def between(self, offset: int, upper: int) -> tuple[tuple[int, int], ...]:
        """(producer id, first offset) of the transactions that touch `offset` to `upper` - 1."""
        fields = self._fields
        return tuple(
            (fields[at], fields[at + 1])
            for at in range(self._from(offset) * _FIELDS, len(fields), _FIELDS)
            if fields[at + 1] < upper
        )

    def encode(self, first: int, end: int) -> bytes:
        """The file of the segment that holds the offsets `first` to `end` - 1."""
        fields = self._fields
        begin, stop = self._from(first) * _FIELDS, self._from(end) * _FIELDS
        return b"".join(
            [ENTRY.pack(VERSION, *fields[at : at + _FIELDS]) for at in range(begin, stop, _FIELDS)]
        )  # fmt: skip

    def load(self, data: bytes, first: int, end: int) -> None:
        """Add a file's whole entries that end within `first` to `end` - 1, and behind what is there already."""
        whole = len(data) - len(data) % ENTRY_BYTES
        for version, pid, begin, last, stable in ENTRY.iter_unpack(data[:whole]):
            newest = self._fields[-_FIELDS + _LAST] if self._fields else -1
            if version == VERSION and 0 <= begin <= last and first <= last < end and last > newest:
                self.add(pid, begin, last, stable)

    def drop_before(self, offset: int) -> int:
        """Forget the transactions that ended before the log's start; how many."""
        gone = self._from(offset)
        del self._fields[: gone * _FIELDS]
        return gone


def marker_of(batch: Buffer) -> int:
    """ABORT or COMMIT: what a control batch's record says; UNREADABLE for anything else."""
    view = memoryview(batch)
    try:
        at = _skip_varint(view, HEADER_BYTES) + 1  # length, attributes
        at = _skip_varint(view, _skip_varint(view, at))  # timestamp and offset deltas
        key = _skip_varint(view, at)
        if view[at] != 2 * _MARKER.size:  # a key of four bytes, as a zig-zag varint
            return UNREADABLE
        kind = int(_MARKER.unpack_from(view, key)[1])
    except (IndexError, struct.error):
        return UNREADABLE
    return kind if kind in {ABORT, COMMIT} else UNREADABLE


def _skip_varint(view: memoryview, at: int) -> int:
    while view[at] & 0x80:
        at += 1
    return at + 1
