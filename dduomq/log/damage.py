"""Ranges of a log that the disk has spoilt: kept on record, never served.

The file `quarantine` holds them, 40 bytes each. Always true: what is read lies wholly before a range or wholly
behind it.
"""

import struct
from collections.abc import Sequence

import attrs

from dduomq.errors import CorruptMessage
from dduomq.log.segment import Segment

NAME = "quarantine"
_ENTRY = struct.Struct(">qqqqq")


@attrs.frozen
class Damage:
    """Offsets `first` to `end` - 1 are damaged: the bytes `position` to `next_position` of segment `base_offset`."""

    first: int
    end: int
    base_offset: int
    position: int
    next_position: int


def encode(damages: Sequence[Damage]) -> bytes:
    return b"".join(_ENTRY.pack(*attrs.astuple(held)) for held in damages)


def decode(data: bytes) -> list[Damage]:
    """The whole entries in `data`."""
    whole = len(data) - len(data) % _ENTRY.size
    return [Damage(*fields) for fields in _ENTRY.iter_unpack(data[:whole])]


def below(damages: Sequence[Damage], offset: int, upper: int) -> int:
    """How far a read from `offset` may go; raises `CorruptMessage` inside a range."""
    for held in damages:
        if held.first <= offset < held.end:
            raise CorruptMessage(
                f"offsets {held.first} to {held.end - 1} are damaged on disk and are not served; go on at {held.end}"
            )
        if offset < held.first:
            upper = min(upper, held.first)
    return upper


def readable(damages: Sequence[Damage], segment: Segment, offset: int) -> tuple[int, int, int]:
    """(begin, its offset, end) of the positions of a segment, between its damages, that hold `offset`."""
    begin, first, end = 0, segment.base_offset, segment.size
    for held in damages:
        if held.base_offset != segment.base_offset:
            continue
        if held.end > offset:
            end = min(end, held.position)
        elif held.next_position > begin:
            begin, first = held.next_position, held.end
    return begin, first, end


def runs(damages: Sequence[Damage], segment: Segment, begin: int = 0) -> list[tuple[int, int]]:
    """(begin, end) of the stretches of a segment, from `begin` on, that no damage touches."""
    found = []
    for held in sorted(damages, key=lambda held: held.position):
        if held.base_offset == segment.base_offset and held.next_position > begin:
            if held.position > begin:
                found.append((begin, held.position))
            begin = held.next_position
    if begin < segment.size:
        found.append((begin, segment.size))
    return found
