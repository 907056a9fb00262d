"""The time index: (largest timestamp so far, its offset - base offset), beside the offset index's entries.

Kafka's `.timeindex`: 12 bytes an entry, big-endian. Always true: timestamps rise strictly.
"""

import struct
from collections.abc import Sequence

from dduomq.errors import CorruptMessage
from dduomq.log.files import Files

ENTRY = struct.Struct(">qi")
ENTRY_BYTES = ENTRY.size


def encode(entries: Sequence[tuple[int, int]]) -> bytes:
    return b"".join([ENTRY.pack(timestamp, relative) for timestamp, relative in entries])


def decode(data: bytes) -> list[tuple[int, int]]:
    """The whole entries in `data`: (timestamp, relative offset)."""
    whole = len(data) - len(data) % ENTRY_BYTES
    return list(ENTRY.iter_unpack(data[:whole]))


def check(entries: Sequence[tuple[int, int]]) -> None:
    """Raises `CorruptMessage` if the entries don't rise."""
    last_timestamp, last_relative = -1, -1
    for number, (timestamp, relative) in enumerate(entries):
        if timestamp <= last_timestamp or relative < last_relative:
            raise CorruptMessage(f"time index entry {number} ({timestamp}, {relative}) is out of order")
        last_timestamp, last_relative = timestamp, relative


def last_entry(files: Files, path: str, size: int) -> tuple[int, int] | None:
    """The newest entry of the file, None if it has none."""
    whole = size // ENTRY_BYTES
    if not whole:
        return None
    data = files.read_at(path, (whole - 1) * ENTRY_BYTES, ENTRY_BYTES)
    return None if len(data) < ENTRY_BYTES else ENTRY.unpack(data)


def offset_before(entries: Sequence[tuple[int, int]], timestamp: int) -> int:
    """A relative offset from which the first record at or after `timestamp` is ahead; 0 to look from the start."""
    found = 0
    for entry_timestamp, relative in entries:
        if entry_timestamp >= timestamp:
            break
        found = relative
    return found
