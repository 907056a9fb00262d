"""Frames of the quorum's write-ahead log: one for each save, whole or not at all.

    "RWAL" · u32 length of the body · u32 CRC-32C of the body · u32 CRC-32C of the head · body · 0xA5

Pure. Always true: the head's CRC covers the place, so that bytes which a command carries never pass for a frame, and
the length, so that it is believed only when it is right; a frame neither begins nor ends with a zero, so that what was
never written can be told from what was.

How a torn tail is told from damage: a save is one frame, and is synced before the next one is written. So a frame with
a whole one behind it was on the disk, and is damaged if it is bad. The last one of all may have been cut short by a
crash: then the file ends in it, or a sector of it is all zeros; if neither holds, all of it was written, and it is
damaged. What can't be told: damage of the very last save, if a command in it has a sector of zeros, too.
"""

import struct

import attrs
from crc32c import crc32c

from dduomq.ports import Buffer

MAGIC = b"RWAL"
END = b"\xa5"
SECTOR_BYTES = 512
_HEAD = struct.Struct(">4sIII")
_PLACE = struct.Struct(">QQII")
HEAD_BYTES = _HEAD.size


@attrs.frozen
class Place:
    """Where a frame lies: the number of its segment and its position there."""

    segment: int
    position: int


def seal(body: bytes, place: Place) -> list[bytes]:
    """The pieces of the frame around `body`."""
    crc = crc32c(body)
    return [_HEAD.pack(MAGIC, len(body), crc, _head_crc(place, len(body), crc)), body, END]


def _head_crc(place: Place, length: int, crc: int) -> int:
    return int(crc32c(_PLACE.pack(place.segment, place.position, length, crc)))


def _announced(data: Buffer, place: Place) -> tuple[int, int] | None:
    """(where the body ends, its CRC) if the head there is right."""
    if len(data) - place.position < HEAD_BYTES:
        return None
    magic, length, crc, head_crc = _HEAD.unpack_from(data, place.position)
    if magic != MAGIC or head_crc != _head_crc(place, length, crc):
        return None
    return place.position + HEAD_BYTES + length, crc


def unseal(data: bytes, place: Place) -> tuple[bytes, int] | None:
    """(the body of the frame at `place`, where the frame ends), None if there is no whole one."""
    announced = _announced(data, place)
    if announced is None:
        return None
    end, crc = announced
    body = data[place.position + HEAD_BYTES : end]
    if data[end : end + 1] != END or crc32c(body) != crc:
        return None
    return body, end + 1


def is_torn(data: bytes, place: Place) -> bool:
    """Whether the bad frame at `place` was cut short by a crash; else it is damaged."""
    found = data.find(MAGIC, place.position + 1)
    while found >= 0:
        if unseal(data, Place(place.segment, found)) is not None:
            return False
        found = data.find(MAGIC, found + 1)
    announced = _announced(data, place)
    end = len(data) if announced is None else announced[0] + 1
    return end > len(data) or len(data) - place.position < HEAD_BYTES or _has_hole(data, place.position, end)


def _has_hole(data: bytes, begin: int, end: int) -> bool:
    """Whether a sector between the two was never written. Whole sectors reach the disk or don't."""
    at = begin
    while at < end:
        following = min(at - at % SECTOR_BYTES + SECTOR_BYTES, end)
        if not any(data[at:following]):
            return True
        at = following
    return False
