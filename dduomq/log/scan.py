"""Walking a segment with CRCs, and making its indexes again on the way.

Always true: a run ends at the first batch that is not whole or does not follow; what it has passed is indexed as
the writer would have done.
"""

from collections.abc import Iterator

from dduomq.errors import CorruptMessage
from dduomq.limits import MIB
from dduomq.log import index, time_index
from dduomq.log.damage import Damage
from dduomq.log.files import Files
from dduomq.log.segment import INDEX, TIME_INDEX, Segment, walk
from dduomq.log.settings import TopicSettings
from dduomq.log.torn import find_behind
from dduomq.wire.batch import BatchHeader, crc_of

RECHECKED_BYTES = 1 * MIB  # below the recovery point: the likeliest place of damage, at next to no cost


class Scan:
    """`position` and `end_offset`: where the last whole batch ends."""

    def __init__(self, files: Files, directory: str, segment: Segment, index_interval_bytes: int) -> None:
        self._files = files
        self._directory = directory
        self._path = segment.path(directory)
        self._segment = segment
        self._interval = index_interval_bytes
        self._entries: list[tuple[int, int]] = []
        self._times: list[tuple[int, int]] = []
        self._indexed = 0
        self.position = 0
        self.end_offset = segment.base_offset

    def skip_to(self, entries: list[tuple[int, int]], times: list[tuple[int, int]], at: int, offset: int) -> None:
        """Begin at `at`, which holds `offset`; what lies before is indexed by `entries` and `times`."""
        self._entries, self._times = entries, times
        self._indexed = entries[-1][1] if entries else 0
        self.position, self.end_offset = at, offset
        segment = self._segment
        segment.max_timestamp, segment.max_timestamp_offset = times[-1][0], segment.base_offset + times[-1][1]

    def run(self, length: int) -> Iterator[BatchHeader]:
        """The whole batches, offsets without a gap, from the position on."""
        try:
            for at, header, batch in walk(self._files, self._path, self.position, length):
                if header.base_offset != self.end_offset or crc_of(batch, 0, header.size) != header.crc:
                    return
                self._note(at, header)
                yield header
        except CorruptMessage:
            return

    def _note(self, at: int, header: BatchHeader) -> None:
        segment = self._segment
        self.position, self.end_offset = at + header.size, header.next_offset
        if header.max_timestamp > segment.max_timestamp:
            segment.max_timestamp, segment.max_timestamp_offset = header.max_timestamp, header.last_offset
        if at - self._indexed > self._interval:
            self._entries.append((header.last_offset - segment.base_offset, at))
            self._indexed = at
            if segment.max_timestamp > (self._times[-1][0] if self._times else -1):
                self._times.append((segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset))

    def behind(self, length: int) -> tuple[int, BatchHeader] | None:
        """The next whole batch behind the bad one at the position."""
        return find_behind(self._files, self._path, self.position, length, self.end_offset)

    def resume(self, held: Damage) -> None:
        """Go on behind damage."""
        self.position, self.end_offset = held.next_position, held.end

    def write_indexes(self) -> bool:
        """Put the indexes on the disk; False if they were right already."""
        segment = self._segment
        segment.indexed_position = self._indexed
        segment.indexed_timestamp = self._times[-1][0] if self._times else -1
        changed = False
        for suffix, data in ((INDEX, index.encode(self._entries)), (TIME_INDEX, time_index.encode(self._times))):
            path = segment.path(self._directory, suffix)
            if suffix == INDEX:
                segment.index_bytes = len(data)
            else:
                segment.time_index_bytes = len(data)
            if _content(self._files, path) != data:
                self._files.replace(path, data, sync=False)
                self._files.sync(path)
                changed = True
        return changed


def scan(files: Files, directory: str, segment: Segment, recovery_point: int, settings: TopicSettings) -> Scan:
    """A scan that begins `RECHECKED_BYTES` before the recovery point, or at 0 where the indexes can't tell."""
    found = Scan(files, directory, segment, settings.index_interval_bytes)
    if recovery_point <= segment.base_offset or segment.size <= RECHECKED_BYTES:
        return found
    entries = index.decode(_content(files, segment.path(directory, INDEX)))
    times = time_index.decode(_content(files, segment.path(directory, TIME_INDEX)))
    try:
        index.check(entries, segment.size)
        time_index.check(times)
    except CorruptMessage:
        return found
    point = recovery_point - segment.base_offset
    top = max((at for relative, at in entries if relative < point), default=0)
    kept = [entry for entry in entries if entry[1] <= top - RECHECKED_BYTES]
    if not kept:
        return found
    relative, at = kept.pop()
    kept_times = [entry for entry in times if entry[1] <= relative]
    try:
        _, header, batch = next(walk(files, segment.path(directory), at, segment.size))
    except (CorruptMessage, StopIteration):
        return found
    is_right = header.last_offset == segment.base_offset + relative and crc_of(batch, 0, header.size) == header.crc
    if is_right and kept_times:
        found.skip_to(kept, kept_times, at, header.base_offset)
    return found


def _content(files: Files, path: str) -> bytes:
    try:
        return files.read(path)
    except FileNotFoundError:
        return b""
