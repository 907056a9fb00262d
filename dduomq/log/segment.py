"""One segment of a log: its files' names, what is known of it without reading, and the walk over its batches.

Always true: `size` is the end of what was written and may be read; batches lie one behind the other from 0.
"""

from collections.abc import Iterator

import attrs

from dduomq.errors import CorruptMessage
from dduomq.limits import SCAN_CHUNK_BYTES
from dduomq.log.files import Files
from dduomq.wire.batch import HEADER_BYTES, BatchHeader, read_header

NAME_DIGITS = 20
LOG, INDEX, TIME_INDEX, SNAPSHOT = ".log", ".index", ".timeindex", ".snapshot"


def file_name(base_offset: int, suffix: str) -> str:
    """`00000000000000000042.log`"""
    return f"{base_offset:0{NAME_DIGITS}d}{suffix}"


def parse_name(name: str, suffix: str) -> int | None:
    """The base offset in a file's name, None if it is not a file of this kind."""
    digits = name.removesuffix(suffix)
    if len(digits) != NAME_DIGITS or digits == name or not digits.isdigit():
        return None
    return int(digits)


@attrs.define(slots=True)
class Segment:
    """`created_ms` and `written_ms`: append times of its first and newest batch. Times are -1 while it is empty."""

    base_offset: int
    size: int = 0
    next_offset: int = 0
    created_ms: int = -1
    written_ms: int = -1
    max_timestamp: int = -1
    max_timestamp_offset: int = -1
    index_bytes: int = 0
    time_index_bytes: int = 0
    indexed_position: int = 0
    indexed_timestamp: int = -1
    reserved: int = 0

    def path(self, directory: str, suffix: str = LOG) -> str:
        return f"{directory}/{file_name(self.base_offset, suffix)}"


def is_batch(files: Files, path: str, position: int, base_offset: int, offset: int) -> bool:
    """Whether a batch that begins at or before `offset` lies there, as an index says."""
    try:
        header = read_header(files.read_at(path, position, HEADER_BYTES))
    except CorruptMessage:
        return False
    return base_offset <= header.base_offset <= offset


def walk(files: Files, path: str, position: int, end: int) -> Iterator[tuple[int, BatchHeader, memoryview]]:
    """(position, header, bytes) of the batches from `position` to `end`, read in chunks.

    The bytes hold the whole batch. Raises `CorruptMessage` for a header of impossible shape; ends at a batch
    that reaches beyond `end`.
    """
    chunk, start = memoryview(b""), position
    while end - position >= HEADER_BYTES:
        if position + HEADER_BYTES > start + len(chunk):
            chunk, start = memoryview(files.read_at(path, position, min(SCAN_CHUNK_BYTES, end - position))), position
        at = position - start
        header = read_header(chunk, at)
        if position + header.size > end:
            return
        if at + header.size > len(chunk):
            size = min(max(SCAN_CHUNK_BYTES, header.size), end - position)
            chunk, start = memoryview(files.read_at(path, position, size)), position
            at = 0
            if len(chunk) < header.size:
                return
        yield position, header, chunk[at : at + header.size]
        position += header.size
