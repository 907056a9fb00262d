"""What a bad batch means: the torn end of the last writes, or damage with good records behind it.

Always true: bytes that look like a batch inside another batch's records are not taken for one, as long as the
outer header can be read; where a sector was never written nothing behind it was promised.

Why look behind a bad batch: a write cut short by a crash is the last thing in the file, so a whole batch behind
the damage means that the disk has changed what it had ("Protocol-Aware Recovery", Alagappan et al., 2018).
"""

from collections.abc import Iterator

from dduomq.errors import CorruptMessage
from dduomq.limits import CORRUPTION_SEARCH_BYTES_MAX, SCAN_CHUNK_BYTES
from dduomq.log.files import Files
from dduomq.wire.batch import HEADER_BYTES, MAGIC, BatchHeader, crc_of, read_header

SECTOR_BYTES = 512
_MAGIC_AT = 16


def find_behind(files: Files, path: str, position: int, length: int, expected: int) -> tuple[int, BatchHeader] | None:
    """The next whole batch behind the bad one at `position`, which should hold offset `expected`.

    None means that there is none: a torn tail, as far as this file tells.
    """
    complete = _behind_wrong_length(files, path, position, length, expected)
    if complete is not None:
        return complete
    if is_unwritten(files, path, position, length):
        return None
    header = _header_of(files, path, position, expected)
    if header is None:
        return next(_whole_batches(files, path, position + 1, length, expected), None)
    after = position + header.size
    if after <= length:
        following = _whole_at(files, path, after, length)
        if following is not None and following.base_offset == header.next_offset:
            return after, following
        return next(_whole_batches(files, path, position + HEADER_BYTES, length, expected), None)
    for at, following in _whole_batches(files, path, position + HEADER_BYTES, length, expected):
        if _crc_between(files, path, position, at) == header.crc:  # all is there, only its length is wrong
            return at, following
    return None


def is_cut_short(files: Files, path: str, position: int, length: int, expected: int) -> bool:
    """Whether the bad batch at `position` lacks its end: the file stops in it, or a part was never written."""
    if length - position < HEADER_BYTES:
        return True
    if _behind_wrong_length(files, path, position, length, expected) is not None:
        return False
    if is_unwritten(files, path, position, length):
        return True
    header = _header_of(files, path, position, expected)
    if header is None or position + header.size <= length:
        return False
    return _crc_between(files, path, position, length) != header.crc


def _behind_wrong_length(
    files: Files, path: str, position: int, length: int, expected: int
) -> tuple[int, BatchHeader] | None:  # fmt: skip
    """The whole batch that begins before the bad one says that it ends, if all of that is there but its length.

    Without this, the zeros that another batch begins with could pass for a sector of this one that was never written.
    """
    header = _header_of(files, path, position, expected)
    if header is None:
        return None
    for at, following in _whole_batches(files, path, position + HEADER_BYTES, length, expected):
        if at >= position + header.size:
            return None
        if _crc_between(files, path, position, at) == header.crc:
            return at, following
    return None


def is_unwritten(files: Files, path: str, position: int, length: int) -> bool:
    """Whether a sector of the batch at `position` is all zeros: the disk never got it.

    Whole sectors reach the disk or don't. The first bytes of a batch, of its offset, may well be zeros.
    """
    head = files.read_at(path, position, HEADER_BYTES)
    if not any(head):
        return True
    try:
        size = read_header(head).size
    except CorruptMessage:
        size = HEADER_BYTES
    size = min(size, length - position, CORRUPTION_SEARCH_BYTES_MAX)
    data = files.read_at(path, position, size)
    begin = SECTOR_BYTES - position % SECTOR_BYTES
    return any(
        len(data) - at > 1 and not any(data[at : at + SECTOR_BYTES]) for at in range(begin, len(data), SECTOR_BYTES)
    )


def is_whole_at(files: Files, path: str, position: int, length: int, expected: int) -> bool:
    """Whether a batch with the right CRC begins at `position` with offset `expected`."""
    header = _whole_at(files, path, position, length)
    return header is not None and header.base_offset == expected


def _header_of(files: Files, path: str, position: int, expected: int) -> BatchHeader | None:
    try:
        header = read_header(files.read_at(path, position, HEADER_BYTES))
    except CorruptMessage:
        return None
    return header if header.base_offset == expected else None


def _whole_at(files: Files, path: str, position: int, length: int) -> BatchHeader | None:
    try:
        header = read_header(files.read_at(path, position, HEADER_BYTES))
    except CorruptMessage:
        return None
    end = position + header.size
    if end > length or not header.count or _crc_between(files, path, position, end) != header.crc:
        return None
    return header


def _crc_between(files: Files, path: str, position: int, end: int) -> int:
    """The CRC that a batch from `position` to `end` would have; -1 if it can't be read."""
    if end - position < HEADER_BYTES or end - position > CORRUPTION_SEARCH_BYTES_MAX:
        return -1
    data = files.read_at(path, position, end - position)
    return crc_of(data, 0, len(data)) if len(data) == end - position else -1


def _whole_batches(
    files: Files, path: str, begin: int, length: int, after: int
) -> Iterator[tuple[int, BatchHeader]]:  # fmt: skip
    """Every place from `begin` on where a whole batch lies with an offset not below `after`."""
    at, end = begin, min(length, begin + CORRUPTION_SEARCH_BYTES_MAX)
    while at + HEADER_BYTES <= end:
        chunk = files.read_at(path, at, SCAN_CHUNK_BYTES + HEADER_BYTES)
        magic = chunk.find(MAGIC, _MAGIC_AT)
        while 0 <= magic - _MAGIC_AT <= len(chunk) - HEADER_BYTES:
            found = _plausible(chunk, magic - _MAGIC_AT, after)
            position = at + magic - _MAGIC_AT
            if found is not None and _whole_at(files, path, position, length) is not None:
                yield position, found
            magic = chunk.find(MAGIC, magic + 1)
        at += SCAN_CHUNK_BYTES


def _plausible(chunk: bytes, at: int, after: int) -> BatchHeader | None:
    try:
        header = read_header(chunk, at)
    except CorruptMessage:
        return None
    return header if header.base_offset >= after and header.count > 0 else None
