"""Walk the batches of one `.log` file, sound or damaged, of a running node or a dead one.

Always true: the walk never leaves the bytes that were there when the file was opened; what can't be read is
reported with its position, and the walk goes on at the next batch whose CRC is right. What merely ends too
early is a `Tail`: a running node is still writing it, recovery will cut it.
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TypeAlias

import attrs

from dduomq.errors import CorruptMessage
from dduomq.limits import CORRUPTION_SEARCH_BYTES_MAX, MIB
from dduomq.wire.batch import HEADER_BYTES, MAGIC, BatchHeader, crc_of, read_header

CHUNK_BYTES = MIB
BATCH_BYTES_BELIEVED_MAX = 256 * MIB  # a header that claims more is taken for damage, not read
ZEROS = "zeros"
_MAGIC_AT = 16


@attrs.frozen
class Batch:
    """One batch; `data` is all of it, header included, or empty when only its header was asked for."""

    position: int
    header: BatchHeader
    data: memoryview
    crc_is_right: bool = True


@attrs.frozen
class Damage:
    """Bytes that are no batch, with something behind them or nothing that could be one still being written."""

    position: int
    size: int
    why: str


@attrs.frozen
class Tail:
    """The file ends inside a batch."""

    position: int
    size: int
    why: str


Found: TypeAlias = Batch | Damage | Tail


class LogFile:
    """A file opened for reading at positions; its size is what it was at opening."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("rb", buffering=0)
        self.size = self._file.seek(0, 2)
        self._chunk = memoryview(b"")
        self._start = 0

    def __enter__(self) -> "LogFile":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def read(self, position: int, size: int) -> memoryview:
        """`size` bytes at `position`, fewer only at the end of the file."""
        at = position - self._start
        if at < 0 or at + size > len(self._chunk):
            self._file.seek(position)
            self._chunk = memoryview(self._read_all(min(max(size, CHUNK_BYTES), self.size - position)))
            self._start, at = position, 0
        return self._chunk[at : at + size]

    def _read_all(self, size: int) -> bytes:
        data = self._file.read(size)
        while len(data) < size:
            more = self._file.read(size - len(data))
            if not more:  # the node cut or trimmed it since it was opened
                break
            data += more
        return data


def scan(log: LogFile, position: int = 0, wanted: Callable[[BatchHeader], bool] = lambda _: True) -> Iterator[Found]:
    """Everything from `position` on. Bodies are read, and CRCs checked, where `wanted(header)` says so."""
    expected = 0
    while position < log.size:
        found = _at(log, position, expected, wanted)
        yield found
        if isinstance(found, Tail):
            return
        if isinstance(found, Batch):
            expected = found.header.next_offset
            position += found.header.size
        else:
            position += found.size


def _at(log: LogFile, position: int, expected: int, wanted: Callable[[BatchHeader], bool]) -> Found:
    left = log.size - position
    try:
        header = read_header(log.read(position, min(HEADER_BYTES, left)))
    except CorruptMessage as error:
        if _is_zero(log, position):
            return Tail(position, left, ZEROS)
        if left < HEADER_BYTES:
            return Tail(position, left, "less than a batch header")
        return _damage(log, position, expected, error.message) or Damage(position, left, error.message)
    if header.size > left or header.size > BATCH_BYTES_BELIEVED_MAX:
        why = f"a batch of {header.size} bytes, of which {left} are here"
        return _damage(log, position, expected, why) or Tail(position, left, why)
    if not wanted(header):
        return Batch(position, header, memoryview(b""))
    data = log.read(position, header.size)
    if len(data) == header.size and crc_of(data, 0, header.size) == header.crc:
        return Batch(position, header, data)
    if _is_followed(log, position + header.size, header.next_offset):
        return Batch(position, header, data, crc_is_right=False)
    why = f"wrong CRC, and a length of {header.size} that leads nowhere"
    return _damage(log, position, expected, why) or Batch(position, header, data, crc_is_right=False)


def _is_followed(log: LogFile, position: int, next_offset: int) -> bool:
    """Whether another batch, or the end, stands where a batch's length says."""
    if position == log.size:
        return True
    if log.size - position < HEADER_BYTES:
        return False
    try:
        return read_header(log.read(position, HEADER_BYTES)).base_offset >= next_offset
    except CorruptMessage:
        return False


def _damage(log: LogFile, position: int, expected: int, why: str) -> Damage | None:
    """The damage up to the next sound batch behind `position`; None if there is none."""
    size = min(CORRUPTION_SEARCH_BYTES_MAX, log.size - position)
    data = bytes(log.read(position, size))
    at = data.find(MAGIC, 1 + _MAGIC_AT)
    while at >= 0:
        if _is_sound(data, at - _MAGIC_AT, expected):
            return Damage(position, at - _MAGIC_AT, why)
        at = data.find(MAGIC, at + 1)
    return None


def _is_sound(data: bytes, at: int, expected: int) -> bool:
    try:
        header = read_header(data, at)
    except CorruptMessage:
        return False
    if not expected <= header.base_offset < expected + 2**40 or at + header.size > len(data):
        return False
    return crc_of(data, at, header.size) == header.crc


def _is_zero(log: LogFile, position: int) -> bool:
    while position < log.size:
        part = bytes(log.read(position, min(CHUNK_BYTES, log.size - position)))
        if part.strip(b"\0"):
            return False
        position += max(len(part), 1)
    return True
