"""The offset index: (last offset of a batch - base offset, its position), one about each 4 KiB.

Kafka's `.index`: 8 bytes an entry, big-endian. Always true: entries rise in both fields; the file is a hint
that can be made again from the log.
"""

import struct
from collections.abc import Sequence

from dduomq.errors import CorruptMessage
from dduomq.log.files import Files

ENTRY = struct.Struct(">ii")
ENTRY_BYTES = ENTRY.size
BLOCK_BYTES = 512 * ENTRY_BYTES


def encode(entries: Sequence[tuple[int, int]]) -> bytes:
    return b"".join([ENTRY.pack(relative, position) for relative, position in entries])


def decode(data: bytes) -> list[tuple[int, int]]:
    """The whole entries in `data`."""
    whole = len(data) - len(data) % ENTRY_BYTES
    return list(ENTRY.iter_unpack(data[:whole]))


def check(entries: Sequence[tuple[int, int]], log_bytes: int) -> None:
    """Raises `CorruptMessage` if the entries don't rise or point outside the log."""
    last_relative, last_position = -1, -1
    for number, (relative, position) in enumerate(entries):
        if relative <= last_relative or position <= last_position or position >= log_bytes:
            raise CorruptMessage(f"index entry {number} ({relative}, {position}) is out of order or beyond the log")
        last_relative, last_position = relative, position


def floor(entries: Sequence[tuple[int, int]], relative: int) -> int:
    """The position of the last entry at or before `relative`; 0 if there is none."""
    low, high = 0, len(entries)
    while low < high:
        middle = (low + high) // 2
        if entries[middle][0] <= relative:
            low = middle + 1
        else:
            high = middle
    return entries[low - 1][1] if low else 0


def floor_in_file(files: Files, path: str, index_bytes: int, relative: int) -> int:
    """`floor` over a file, reading one block of it."""
    low, high = 0, index_bytes // ENTRY_BYTES
    while high - low > BLOCK_BYTES // ENTRY_BYTES:
        middle = (low + high) // 2
        entry = files.read_at(path, middle * ENTRY_BYTES, ENTRY_BYTES)
        if len(entry) < ENTRY_BYTES:
            return 0
        if ENTRY.unpack(entry)[0] <= relative:
            low = middle
        else:
            high = middle
    return floor(decode(files.read_at(path, low * ENTRY_BYTES, (high - low) * ENTRY_BYTES)), relative)
