"""Cutting a log that nobody has open: what a replica has, and its leader has not.

Runs in a worker. Always true: a crash between two steps leaves a log that opens, with the cut made, made in part or
not at all; what beside the batches speaks of offsets that are gone goes with them; all is synced when it returns.
The log is then opened through recovery, which makes its state anew.
"""

from dduomq.errors import CorruptMessage
from dduomq.log import damage, epochs, index, time_index, txn_index
from dduomq.log.files import Files
from dduomq.log.plans import LOG_START, RECOVERY_POINT, decode_number, encode_number
from dduomq.log.replica_log import HIGH_WATERMARK
from dduomq.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX, file_name, parse_name, walk
from dduomq.log.snapshot import offsets_of
from dduomq.log.txn_index import Aborted

SUFFIXES = (LOG, INDEX, TIME_INDEX, SNAPSHOT, txn_index.SUFFIX)


def truncate_log(files: Files, directory: str, offset: int) -> int:
    """Remove every batch that reaches to `offset` or beyond; where the log ends then, which may be before it."""
    bases = _bases(files, directory)
    start = _number(files, f"{directory}/{LOG_START}") or 0
    kept = [base for base in bases if base <= offset]
    if offset < start or not kept:
        reset_log(files, directory, offset)
        return offset
    base = kept[-1]
    position, end = _place(files, directory, base, offset)
    if end < start:
        reset_log(files, directory, offset)
        return offset
    _shorten_notes(files, directory, end)
    for gone in reversed(bases[len(kept) :]):
        _remove_segment(files, directory, gone)
    _cut_segment(files, directory, base, position, end)
    files.sync_dir(directory)
    return end


def reset_log(files: Files, directory: str, start: int) -> None:
    """Leave nothing: the log begins and ends at `start`."""
    files.replace(f"{directory}/{LOG_START}", encode_number(start))
    _shorten_notes(files, directory, 0)
    files.replace(f"{directory}/{RECOVERY_POINT}", encode_number(start))
    for base in reversed(_bases(files, directory)):
        _remove_segment(files, directory, base)
    for offset in offsets_of(files.list(directory)):
        files.remove(f"{directory}/{file_name(offset, SNAPSHOT)}")
    files.sync_dir(directory)


def _bases(files: Files, directory: str) -> list[int]:
    return sorted(base for name in files.list(directory) if (base := parse_name(name, LOG)) is not None)


def _number(files: Files, path: str) -> int | None:
    return decode_number(files.read(path)) if files.exists(path) else None


def _shorten_notes(files: Files, directory: str, end: int) -> None:
    """First of all: whoever opens the log after a crash must not take what is being cut for lost."""
    point = _number(files, f"{directory}/{RECOVERY_POINT}") or 0
    files.replace(f"{directory}/{RECOVERY_POINT}", encode_number(min(point, end)))
    known = epochs.decode(_content(files, f"{directory}/{epochs.NAME}"))
    known.truncate(end)
    files.replace(f"{directory}/{epochs.NAME}", known.encode())
    mark = _number(files, f"{directory}/{HIGH_WATERMARK}")
    if mark is not None and mark > end:
        files.replace(f"{directory}/{HIGH_WATERMARK}", encode_number(end))
    spoilt = damage.decode(_content(files, f"{directory}/{damage.NAME}"))
    if any(held.end > end for held in spoilt):
        files.replace(f"{directory}/{damage.NAME}", damage.encode([held for held in spoilt if held.end <= end]))
    for offset in offsets_of(files.list(directory)):
        if offset > end:
            files.remove(f"{directory}/{file_name(offset, SNAPSHOT)}")


def _remove_segment(files: Files, directory: str, base: int) -> None:
    for suffix in SUFFIXES:
        files.remove(f"{directory}/{file_name(base, suffix)}")


def _place(files: Files, directory: str, base: int, offset: int) -> tuple[int, int]:
    """(position, offset) behind the last batch of the segment that ends before `offset`."""
    path = f"{directory}/{file_name(base, LOG)}"
    length = files.size(path)
    entries = index.decode(_content(files, f"{directory}/{file_name(base, INDEX)}"))
    begin = index.floor(entries, offset - base - 1) if offset > base else 0
    found = _walk(files, path, begin, length, offset, -1) if 0 < begin < length else None
    return found or _walk(files, path, 0, length, offset, base) or (0, base)


def _walk(files: Files, path: str, begin: int, length: int, offset: int, expected: int) -> tuple[int, int] | None:
    """The same from a position on, None if what lies there is not what should."""
    found = None
    try:
        for at, header, _ in walk(files, path, begin, length, lambda _at, header: header.next_offset > offset):
            if expected not in {-1, header.base_offset}:
                break
            expected = header.next_offset
            found = at + header.size, expected
    except CorruptMessage:  # what lies behind it can't be kept either: it is fetched again
        return found
    return found


def _cut_segment(files: Files, directory: str, base: int, position: int, end: int) -> None:
    path = f"{directory}/{file_name(base, LOG)}"
    index_path = f"{directory}/{file_name(base, INDEX)}"
    entries = [entry for entry in index.decode(_content(files, index_path)) if entry[1] < position]
    files.replace(index_path, index.encode(entries))
    time_path = f"{directory}/{file_name(base, TIME_INDEX)}"
    times = [entry for entry in time_index.decode(_content(files, time_path)) if base + entry[1] < end]
    files.replace(time_path, time_index.encode(times))
    aborted_path = f"{directory}/{file_name(base, txn_index.SUFFIX)}"
    if files.exists(aborted_path):
        aborted = Aborted()
        aborted.load(files.read(aborted_path), base, end)
        files.replace(aborted_path, aborted.encode(base, end))
    files.truncate(path, position)
    files.sync(path)


def _content(files: Files, path: str) -> bytes:
    return files.read(path) if files.exists(path) else b""
