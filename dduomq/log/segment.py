"""One segment of a log: its files' names, what is known of it without reading, and the walk over its batches.

Always true: `size` is the end of what was written and may be read; batches lie one behind the other from 0.
"""

from collections.abc import Callable, Iterator

import attrs

from dduomq.errors import CorruptMessage
from dduomq.limits import SCAN_CHUNK_BYTES
from dduomq.log.files import Files
from dduomq.log.scratch import Scratch, borrowed
from dduomq.wire.batch import HEADER_BYTES, BatchHeader, read_header

NAME_DIGITS = 20
PEEK_BYTES = 4096  # behind a large batch comes another, as a rule: no more is read of it than its header
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


def walk(
    files: Files, path: str, position: int, end: int, stop: Callable[[int, BatchHeader], bool] | None = None
) -> Iterator[tuple[int, BatchHeader, memoryview]]:
    """(position, header, bytes) of the batches from `position` to `end`, read in chunks.

    The bytes hold the whole batch, until the next one is asked for. Raises `CorruptMessage` for a header of
    impossible shape; ends at a batch that reaches beyond `end`, or for which `stop(position, header)` is true: of
    that one no more than the header has been read.
    """
    with borrowed() as scratch:
        start, filled, ahead = position, 0, SCAN_CHUNK_BYTES
        while end - position >= HEADER_BYTES:
            if position + HEADER_BYTES > start + filled:
                start, filled = position, _read(files, path, scratch, position, 0, min(ahead, end - position))
            at = position - start
            header = read_header(scratch.view[:filled], at)
            if position + header.size > end or (stop is not None and stop(position, header)):
                return
            if at + header.size > filled:
                if at:
                    scratch.view[: filled - at] = scratch.view[at:filled]
                start, filled, at = position, filled - at, 0
                size = max(header.size, min(SCAN_CHUNK_BYTES, end - position))
                filled = _read(files, path, scratch, start, filled, size)
                if filled < header.size:
                    return
            yield position, header, scratch.view[at : at + header.size]
            position += header.size
            ahead = SCAN_CHUNK_BYTES if header.size < SCAN_CHUNK_BYTES else PEEK_BYTES


def _read(files: Files, path: str, scratch: Scratch, start: int, filled: int, size: int) -> int:
    """Fill the buffer up to `size` bytes from `start` on; how many are in it then."""
    view = scratch.hold(size, filled)
    return filled + files.read_into(path, start + filled, view[filled:size])
