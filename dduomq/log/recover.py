"""Opening a log: trust what a clean stop left, check what a crash may have torn.

Everything here runs in a worker and reads through `files`. Always true: nothing above the recovery point is
believed without its CRC; a torn tail is cut and reported; a damaged batch with whole ones behind it is kept,
reported and never served; what is served has been synced.

Why look behind a bad batch: a write cut short by a crash is the last thing in the file, so a whole batch
behind the damage means that the disk has changed what it had ("Protocol-Aware Recovery", Alagappan et al., 2018).
"""

import struct
from collections.abc import Iterator, Sequence

import attrs

from dduomq.errors import CorruptMessage, StorageError
from dduomq.limits import CORRUPTION_SEARCH_BYTES_MAX, SCAN_CHUNK_BYTES
from dduomq.log import epochs, index, producers, time_index
from dduomq.log.files import Files
from dduomq.log.plans import LOG_START, OFFLINE, RECOVERY_POINT, Damage, decode_number
from dduomq.log.plog import PartitionLog
from dduomq.log.producers import Producers
from dduomq.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX, Segment, file_name, parse_name, walk
from dduomq.log.settings import TopicSettings
from dduomq.wire.batch import HEADER_BYTES, MAGIC, BatchHeader, crc_of, read_header

METADATA = "partition.metadata"
QUARANTINE = "quarantine"
SECTOR_BYTES = 512
_MAGIC_AT = 16
_DAMAGE = struct.Struct(">qqqqq")


@attrs.frozen
class RecoveryReport:
    """What was found: bytes cut, offsets damaged (first, next good), bytes read, indexes made again."""

    cut_bytes: int = 0
    cut_from_offset: int = -1
    quarantined: tuple[tuple[int, int], ...] = ()
    scanned_bytes: int = 0
    rebuilt_indexes: int = 0


def open_log(
    files: Files,
    directory: str,
    settings: TopicSettings,
    *,
    leader_epoch: int,
    topic_id: str,
    clean: bool,
    now_ms: int,
    restore: bool = False,
) -> tuple[PartitionLog, RecoveryReport]:
    """The log in `directory`, made if missing, and what recovery had to do.

    `clean`: the node stopped in good order. Raises `StorageError` for a log that a disk failure took offline,
    unless `restore` says to bring it back: what was not synced is then written and synced anew.
    """
    if not files.exists(directory):
        files.make_dir(directory)
        text = f"version: 0\ntopic_id: {topic_id}\n"
        files.replace(f"{directory}/{METADATA}", text.encode(), sync=False)
    opening = _Opening(files, directory, settings, now_ms)
    is_offline = OFFLINE in opening.names
    if is_offline and not restore:
        raise StorageError(f"{directory} was taken offline by a disk failure; restore it when the disk is mended")
    if not (clean and opening.trust()):
        opening.recover()
    if is_offline:
        opening.write_anew()
        files.remove(f"{directory}/{OFFLINE}")
        files.sync_dir(directory)
    return opening.finish(leader_epoch), opening.report


class _Opening:
    """One log while it is being opened."""

    def __init__(self, files: Files, directory: str, settings: TopicSettings, now_ms: int) -> None:
        self._files = files
        self._directory = directory
        self._settings = settings
        self._now_ms = now_ms
        self.names = set(files.list(directory))
        bases = sorted(base for name in self.names if (base := parse_name(name, LOG)) is not None)
        self._start = self._number(LOG_START) or 0
        self._recovery_point = self._number(RECOVERY_POINT)
        self._segments = [Segment(base) for base in bases] or [Segment(self._start)]
        for segment in self._segments[: len(bases)]:
            segment.size = files.size(segment.path(directory))
        self._end = self._start
        self._damages: list[Damage] = self._read_quarantine()
        self._producers = Producers()
        self.report = RecoveryReport()

    def _number(self, name: str) -> int | None:
        if name not in self.names:
            return None
        return decode_number(self._files.read(f"{self._directory}/{name}"))

    # --- after a clean stop -------------------------------------------------------------------------

    def trust(self) -> bool:
        """Take everything from the checkpoints; False when they are not whole."""
        active = self._segments[-1]
        if self._recovery_point is None:
            return not active.size and len(self._segments) == 1
        if self._recovery_point < active.base_offset or (
            not active.size and self._recovery_point != active.base_offset
        ):
            return False
        self._end = self._recovery_point
        for segment in self._segments:
            self._read_marks(segment)
        snapshot = self._snapshots()
        if snapshot:
            self._load_producers(snapshot[-1])
        return True

    def _read_marks(self, segment: Segment) -> None:
        """Sizes of the indexes and the newest timestamp: no batch is read."""
        if not segment.size:
            return
        segment.created_ms = self._now_ms
        for suffix in (INDEX, TIME_INDEX):
            name = file_name(segment.base_offset, suffix)
            if name in self.names:
                size = self._files.size(f"{self._directory}/{name}")
                if suffix == INDEX:
                    segment.index_bytes = size - size % index.ENTRY_BYTES
                else:
                    segment.time_index_bytes = size - size % time_index.ENTRY_BYTES
        path = segment.path(self._directory, TIME_INDEX)
        last = time_index.last_entry(self._files, path, segment.time_index_bytes) if segment.time_index_bytes else None
        if last is not None:
            segment.max_timestamp = segment.indexed_timestamp = last[0]
            segment.max_timestamp_offset = segment.base_offset + last[1]
            self._files.forget(path)
        segment.indexed_position = segment.size

    # --- after a crash ------------------------------------------------------------------------------

    def recover(self) -> None:
        """Check every batch above the recovery point; cut what is torn; make the indexes again."""
        point = self._recovery_point or 0
        first = max((at for at, s in enumerate(self._segments) if s.base_offset <= point), default=0)
        for segment in self._segments[:first]:
            self._read_marks(segment)
        self._end = max(self._start, self._segments[first].base_offset)
        for at in range(first, len(self._segments)):
            segment = self._segments[at]
            self._end = max(self._end, segment.base_offset)
            is_whole = self._scan(segment)
            if not is_whole:
                self._drop_from(at + 1)
                break
        self._sync(first)
        self._replay_producers()

    def _scan(self, segment: Segment) -> bool:
        """Walk a segment with CRCs; False when it was cut, so that nothing behind it counts."""
        path, length = segment.path(self._directory), segment.size
        entries: list[tuple[int, int]] = []
        times: list[tuple[int, int]] = []
        position = indexed = 0
        if not length:
            return True
        segment.created_ms = self._now_ms
        while position < length:
            begun = position
            for at, header in self._good(path, begun, length):
                self._note(segment, header)
                if at - indexed > self._settings.index_interval_bytes:
                    entries.append((header.last_offset - segment.base_offset, at))
                    indexed = at
                    if segment.max_timestamp > (times[-1][0] if times else -1):
                        times.append((segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset))
                position = at + header.size
            self._count(scanned=position - begun)
            if position < length:
                resumed = self._resume(segment, position, length)
                if resumed is None:
                    break
                position = resumed
        segment.size = position
        self._write_indexes(segment, entries, times)
        segment.indexed_position = indexed
        if position < length:
            self._count(cut=length - position)
            self._files.truncate(path, position)
            return False
        return True

    def _resume(self, segment: Segment, position: int, length: int) -> int | None:
        """Where to go on behind damage, which is then quarantined; None for a torn tail."""
        found = self._behind(segment.path(self._directory), position, length)
        if found is not None:
            next_position, next_offset = found[0], found[1].base_offset
        elif self._recovery_point is not None and self._end < self._recovery_point:
            next_position, next_offset = length, self._recovery_point  # it was synced: this is no torn tail
        else:
            return None
        self._quarantine(Damage(self._end, next_offset, segment.base_offset, position, next_position))
        self._end = next_offset
        return next_position

    def _good(self, path: str, position: int, length: int) -> Iterator[tuple[int, BatchHeader]]:
        """The run of whole batches, offsets without a gap, that begins at `position`."""
        expected = self._end
        try:
            for at, header, batch in walk(self._files, path, position, length):
                if header.base_offset != expected or crc_of(batch, 0, header.size) != header.crc:
                    return
                yield at, header
                expected = header.next_offset
        except CorruptMessage:
            return

    def _note(self, segment: Segment, header: BatchHeader) -> None:
        self._end = header.next_offset
        if header.max_timestamp > segment.max_timestamp:
            segment.max_timestamp, segment.max_timestamp_offset = header.max_timestamp, header.last_offset

    def _behind(self, path: str, position: int, length: int) -> tuple[int, BatchHeader] | None:
        """The next whole batch behind the damage at `position`; None means that it is a torn tail.

        Where a sector of the batch was never written, it was not synced: nothing there or behind was promised.
        """
        if self._is_unwritten(path, position, length):
            return None
        end = min(length, position + CORRUPTION_SEARCH_BYTES_MAX)
        at = position + 1
        while at + HEADER_BYTES <= end:
            chunk = self._files.read_at(path, at, SCAN_CHUNK_BYTES + HEADER_BYTES)
            found = self._first_whole(path, chunk, at, length)
            if found is not None:
                return found
            at += SCAN_CHUNK_BYTES
        return None

    def _is_unwritten(self, path: str, position: int, length: int) -> bool:
        """Whether a sector of the batch at `position` is all zeros: the disk never got it.

        Whole sectors reach the disk or don't. The first bytes of a batch, of its offset, may well be zeros.
        """
        head = self._files.read_at(path, position, HEADER_BYTES)
        if not any(head):
            return True
        try:
            size = read_header(head).size
        except CorruptMessage:
            size = HEADER_BYTES
        size = min(size, length - position, CORRUPTION_SEARCH_BYTES_MAX)
        data = self._files.read_at(path, position, size)
        begin = SECTOR_BYTES - position % SECTOR_BYTES
        return any(
            len(data) - at > 1 and not any(data[at : at + SECTOR_BYTES]) for at in range(begin, len(data), SECTOR_BYTES)
        )

    def _first_whole(self, path: str, chunk: bytes, start: int, length: int) -> tuple[int, BatchHeader] | None:
        magic = chunk.find(MAGIC, _MAGIC_AT)
        while magic >= 0 and magic - _MAGIC_AT + HEADER_BYTES <= len(chunk):
            at = magic - _MAGIC_AT
            header = _plausible(chunk, at, self._end)
            if header is not None and start + at + header.size <= length:
                batch = self._files.read_at(path, start + at, header.size)
                if len(batch) == header.size and crc_of(batch, 0, header.size) == header.crc:
                    return start + at, header
            magic = chunk.find(MAGIC, magic + 1)
        return None

    def _quarantine(self, damage: Damage) -> None:
        if damage in self._damages:
            return
        self._damages.append(damage)
        data = b"".join(_DAMAGE.pack(*attrs.astuple(held)) for held in self._damages)
        self._files.replace(f"{self._directory}/{QUARANTINE}", data)
        found = tuple((held.first, held.end) for held in self._damages)
        self.report = attrs.evolve(self.report, quarantined=found)

    def _read_quarantine(self) -> list[Damage]:
        if QUARANTINE not in self.names:
            return []
        data = self._files.read(f"{self._directory}/{QUARANTINE}")
        whole = len(data) - len(data) % _DAMAGE.size
        return [Damage(*fields) for fields in _DAMAGE.iter_unpack(data[:whole])]

    def _write_indexes(
        self, segment: Segment, entries: Sequence[tuple[int, int]], times: Sequence[tuple[int, int]]
    ) -> None:
        encoded, encoded_times = index.encode(entries), time_index.encode(times)
        self._files.replace(segment.path(self._directory, INDEX), encoded, sync=False)
        self._files.replace(segment.path(self._directory, TIME_INDEX), encoded_times, sync=False)
        segment.index_bytes, segment.time_index_bytes = len(encoded), len(encoded_times)
        segment.indexed_timestamp = times[-1][0] if times else -1
        self.report = attrs.evolve(self.report, rebuilt_indexes=self.report.rebuilt_indexes + 1)

    def _drop_from(self, at: int) -> None:
        """Segments behind a cut can't be right: their offsets don't follow."""
        for segment in self._segments[at:]:
            self._count(cut=segment.size)
            for suffix in (LOG, INDEX, TIME_INDEX):
                self._files.remove(segment.path(self._directory, suffix))
        del self._segments[at:]

    def _count(self, *, cut: int = 0, scanned: int = 0) -> None:
        report = self.report
        self.report = attrs.evolve(
            report,
            cut_bytes=report.cut_bytes + cut,
            cut_from_offset=self._end if cut and report.cut_from_offset < 0 else report.cut_from_offset,
            scanned_bytes=report.scanned_bytes + scanned,
        )

    def _sync(self, first: int) -> None:
        for segment in self._segments[first:]:
            if segment.size:
                self._files.sync(segment.path(self._directory))
        self._files.sync_dir(self._directory)

    # --- producers ----------------------------------------------------------------------------------

    def _snapshots(self) -> list[int]:
        """Offsets of the producer snapshots that fit this log, oldest first; the others are removed."""
        offsets = sorted(o for name in self.names if (o := parse_name(name, SNAPSHOT)) is not None)
        for offset in offsets:
            if offset > self._end:
                self._files.remove(f"{self._directory}/{file_name(offset, SNAPSHOT)}")
        return [offset for offset in offsets if offset <= self._end]

    def _load_producers(self, offset: int) -> bool:
        path = f"{self._directory}/{file_name(offset, SNAPSHOT)}"
        try:
            self._producers = producers.decode(self._files.read(path))
        except (CorruptMessage, FileNotFoundError):
            return False
        return True

    def _replay_producers(self) -> None:
        """From the newest snapshot that can be read, then every batch behind it."""
        begin = self._start
        for offset in reversed(self._snapshots()):
            if self._load_producers(offset):
                begin = offset
                break
        for at, segment in enumerate(self._segments):
            following = self._segments[at + 1].base_offset if at + 1 < len(self._segments) else self._end
            if following > begin:
                self._replay_segment(segment, begin)

    def _replay_segment(self, segment: Segment, begin: int) -> None:
        path, position = segment.path(self._directory), 0
        while position < segment.size:
            try:
                for at, header, _ in walk(self._files, path, position, segment.size):
                    position = at + header.size
                    if header.base_offset >= begin and not self._is_quarantined(header.base_offset):
                        self._producers.replay(header)
                return
            except CorruptMessage:
                resumed = self._behind(path, position, segment.size)
                if resumed is None:
                    return
                position = resumed[0]

    def _is_quarantined(self, offset: int) -> bool:
        return any(damage.first <= offset < damage.end for damage in self._damages)

    # --- the end ------------------------------------------------------------------------------------

    def write_anew(self) -> None:
        """After a failed sync the page cache may hold what the disk does not: write it again and sync."""
        for segment in self._segments:
            path, position = segment.path(self._directory), 0
            while position < segment.size:
                data = self._files.read_at(path, position, min(SCAN_CHUNK_BYTES, segment.size - position))
                self._files.write_at(path, [data], position)
                position += len(data)
            if segment.size:
                self._files.sync(path)

    def finish(self, leader_epoch: int) -> PartitionLog:
        cache = epochs.EpochCache()
        if epochs.NAME in self.names:
            cache = epochs.decode(self._files.read(f"{self._directory}/{epochs.NAME}"))
            cache.truncate(max(self._end, 1))
        start = max(self._start, self._segments[0].base_offset)
        return PartitionLog(
            self._directory,
            self._settings,
            leader_epoch=leader_epoch,
            segments=self._segments,
            log_start_offset=min(start, self._end),
            log_end_offset=self._end,
            producers=self._producers,
            epochs=cache,
            damages=tuple(self._damages),
        )


def _plausible(chunk: bytes, at: int, after: int) -> BatchHeader | None:
    try:
        header = read_header(chunk, at)
    except CorruptMessage:
        return None
    return header if header.base_offset >= after and header.count > 0 else None
