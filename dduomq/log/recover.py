"""Opening a log: trust what a clean stop left, check what a crash may have torn.

Everything here runs in a worker and reads through `files`. Always true: nothing above the recovery point is
believed without its CRC; a torn tail is cut and reported; a damaged batch with whole ones behind it is kept,
reported and never served; what is served has been synced. Below the recovery point only the last
`RECHECKED_BYTES` are read again, and the batches behind the newest producer snapshot.
"""

from typing import TypeVar

import attrs

from dduomq.errors import CorruptMessage, StorageError
from dduomq.log import damage, epochs, index, producers, snapshot, time_index, txn_index
from dduomq.log.damage import Damage
from dduomq.log.files import Files
from dduomq.log.leftovers import METADATA, put_aside
from dduomq.log.plans import LOG_START, OFFLINE, RECOVERY_POINT, FlushPlan, decode_number, decode_whole
from dduomq.log.plog import PartitionLog
from dduomq.log.producers import NO_OFFSET, Producers
from dduomq.log.scan import Scan, scan
from dduomq.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX, Segment, file_name, is_batch, parse_name, walk
from dduomq.log.settings import TopicSettings
from dduomq.log.torn import is_cut_short, is_whole_at
from dduomq.log.txn_index import ABORT, Aborted, marker_of
from dduomq.wire.batch import HEADER_BYTES, BatchHeader, crc_of, read_header

COPY_BYTES = 1024 * 1024
L = TypeVar("L", bound=PartitionLog)
BESIDE = (INDEX, TIME_INDEX, txn_index.SUFFIX)


@attrs.frozen
class RecoveryReport:
    """What was found: bytes cut, offsets damaged (first, next good), bytes read, indexes made again; nothing at all."""

    cut_bytes: int = 0
    cut_from_offset: int = -1
    quarantined: tuple[tuple[int, int], ...] = ()
    scanned_bytes: int = 0
    rebuilt_indexes: int = 0
    is_new: bool = False


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
    make: type[L] = PartitionLog,  # type: ignore[assignment]  # mypy can't see the default of a type variable
) -> tuple[L, RecoveryReport]:
    """The log in `directory`, made if missing, and what recovery had to do.

    `clean`: the node stopped in good order, and nobody has opened the log since. Raises `StorageError` for a log
    that a disk failure took offline, unless `restore` says to bring it back: what was not synced is then written
    and synced anew. What another topic of that name has left there is put aside.
    """
    if files.exists(directory):
        put_aside(files, directory, topic_id)
    is_new = not files.exists(directory)
    if is_new:
        files.make_dir(directory)
        text = f"version: 0\ntopic_id: {topic_id}\n"
        files.replace(f"{directory}/{METADATA}", text.encode(), sync=False)
    opening = _Opening(files, directory, settings, leader_epoch, now_ms)
    is_offline = OFFLINE in opening.names
    if is_offline and not restore:
        raise StorageError(f"{directory} was taken offline by a disk failure; restore it when the disk is mended")
    if not (clean and opening.trust()):
        opening.recover()
    if is_offline:
        opening.write_anew()
        files.remove(f"{directory}/{OFFLINE}")
        files.sync_dir(directory)
    return opening.finish(make), attrs.evolve(opening.report, is_new=is_new)


class _Opening:
    """One log while it is being opened."""

    def __init__(
        self, files: Files, directory: str, settings: TopicSettings, leader_epoch: int, now_ms: int
    ) -> None:  # fmt: skip
        self._files = files
        self._directory = directory
        self._settings = settings
        self._leader_epoch = leader_epoch
        self._now_ms = now_ms
        self.names = set(files.list(directory))
        bases = sorted(base for name in self.names if (base := parse_name(name, LOG)) is not None)
        self._start = self._number(LOG_START) or 0
        self._recovery_point = self._number(RECOVERY_POINT)
        self._segments = [Segment(base) for base in bases] or [Segment(self._start)]
        for segment in self._segments[: len(bases)]:
            segment.size = files.size(segment.path(directory))
        self._end = self._start
        self._damages = damage.decode(self._read(damage.NAME))
        self._epochs = epochs.decode(self._read(epochs.NAME))
        self._leader_epoch_max = max(leader_epoch, self._epochs.latest)  # a replica's records may be ahead of us
        self._producers = Producers()
        self._aborted: Aborted | None = None
        self._snapshot_offset = -1
        self._checkpointed = (-1, -1)
        self._is_whole = False
        self.report = RecoveryReport()

    def _path(self, name: str) -> str:
        return f"{self._directory}/{name}"

    def _read(self, name: str) -> bytes:
        return self._files.read(self._path(name)) if name in self.names else b""

    def _number(self, name: str) -> int | None:
        return decode_number(self._read(name))

    # --- after a clean stop -------------------------------------------------------------------------

    def trust(self) -> bool:
        """Take everything from the checkpoints; False when the log has changed since they were written."""
        active = self._segments[-1]
        point = self._recovery_point
        if point is None:
            if active.size or len(self._segments) > 1:
                return False
            point = active.base_offset
        elif decode_whole(self._read(RECOVERY_POINT)) != (active.base_offset, active.size):
            return False
        if self._recovery_point is not None and not self._load_producers(point):
            return False
        self._end = point
        for segment in self._segments:
            self._read_marks(segment)
        self._load_aborted(point)
        self._tidy_snapshots()
        self._checkpointed = (point, self._start)
        self._is_whole = True
        return True

    def _read_marks(self, segment: Segment) -> None:
        """Sizes of the indexes and the newest timestamp: no batch is read, but for the first one's header."""
        if not segment.size:
            return
        self._read_ages(segment)
        for suffix in (INDEX, TIME_INDEX):
            name = file_name(segment.base_offset, suffix)
            if name in self.names:
                size = self._files.size(self._path(name))
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

    def _read_ages(self, segment: Segment) -> None:
        """When its batches were appended is not on disk: the first one's own time says how old the segment is."""
        segment.created_ms = segment.written_ms = self._now_ms
        if segment is not self._segments[-1]:
            return
        path = segment.path(self._directory)
        try:
            first = read_header(self._files.read_at(path, 0, HEADER_BYTES)).max_timestamp
        except CorruptMessage:
            return
        self._files.forget(path)
        if 0 <= first < self._now_ms:
            segment.created_ms = first

    # --- after a crash ------------------------------------------------------------------------------

    def recover(self) -> None:
        """Check every batch above the recovery point; cut what is torn; make the indexes again."""
        point = self._recovery_point or 0
        first = max((at for at, s in enumerate(self._segments) if s.base_offset <= point), default=0)
        for segment in self._segments[:first]:
            self._read_marks(segment)
        self._end = self._segments[first].base_offset
        self._epochs.truncate(max(self._end, 1))
        for at in range(first, len(self._segments)):
            if not self._follows(at, first) or not self._scan(at):
                break
        self._sync(first)
        if self._end < self._start:
            self._begin_at_start()
        self._remove_strays()
        self._replay()

    def _follows(self, at: int, first: int) -> bool:
        """Whether a segment begins where the one before ended; if not, the gap is damage or a lost tail."""
        base = self._segments[at].base_offset
        if at == first or base == self._end:
            return True
        before = self._segments[at - 1]
        if base < self._end or self._end >= (self._recovery_point or 0):
            self._drop_from(at)
            return False
        self._quarantine(Damage(self._end, base, before.base_offset, before.size, before.size))
        return True

    def _scan(self, at: int) -> bool:
        """Walk a segment with CRCs; False when it was cut, so that nothing behind it counts."""
        segment = self._segments[at]
        length = segment.size
        if not length:
            return True
        self._read_ages(segment)
        found = scan(self._files, self._directory, segment, self._recovery_point or 0, self._settings)
        self._end = found.end_offset
        while True:
            begun = found.position
            for header in found.run(length):
                if self._epochs.latest < header.leader_epoch <= self._leader_epoch_max:
                    self._epochs.assign(header.leader_epoch, header.base_offset)
            self._end = found.end_offset
            self._count(scanned=found.position - begun)
            if found.position >= length:
                break
            held = self._damage_at(found, at, length)
            if held is None:
                break
            self._quarantine(held)
            found.resume(held)
            self._end = held.end
        segment.size = found.position
        if found.write_indexes():
            self.report = attrs.evolve(self.report, rebuilt_indexes=self.report.rebuilt_indexes + 1)
        if found.position < length:
            self._count(cut=length - found.position)
            self._files.truncate(segment.path(self._directory), found.position)
            self._drop_from(at + 1)
            return False
        return True

    def _damage_at(self, found: Scan, at: int, length: int) -> Damage | None:
        """What the bad batch at the scan's position is; None for a torn tail."""
        segment, position = self._segments[at], found.position
        path = segment.path(self._directory)
        for held in self._damages:
            if (held.base_offset, held.position) == (segment.base_offset, position) and held.next_position <= length:
                return held
        behind = found.behind(length)
        if behind is not None:
            return Damage(self._end, behind[1].base_offset, segment.base_offset, position, behind[0])
        point = self._recovery_point or 0
        if at + 1 < len(self._segments):
            following = self._segments[at + 1]
            base = following.base_offset
            is_whole = base > self._end and is_whole_at(
                self._files, following.path(self._directory), 0, following.size, base
            )
            if is_whole and (point > self._end or not is_cut_short(self._files, path, position, length, self._end)):
                return Damage(self._end, base, segment.base_offset, position, length)
        if self._end < point:  # it was synced: this is no torn tail
            return Damage(self._end, point, segment.base_offset, position, length)
        return None

    def _quarantine(self, held: Damage) -> None:
        if held not in self._damages:
            self._damages.append(held)
            self._damages.sort(key=lambda known: known.first)
            self._files.replace(self._path(damage.NAME), damage.encode(self._damages))
            found = (*self.report.quarantined, (held.first, held.end))
            self.report = attrs.evolve(self.report, quarantined=found)
        self._end = held.end

    def _drop_from(self, at: int) -> None:
        """Segments behind a cut can't be right: their offsets don't follow."""
        for segment in self._segments[at:]:
            self._count(cut=segment.size)
            for suffix in (LOG, *BESIDE):
                self._files.remove(segment.path(self._directory, suffix))
        del self._segments[at:]

    def _begin_at_start(self) -> None:
        """What is left lies below the log's start: its offsets were deleted and are not given again."""
        self._drop_from(0)
        self._segments = [Segment(self._start)]
        self._end = self._start

    def _remove_strays(self) -> None:
        """Indexes whose segment is gone."""
        bases = {segment.base_offset for segment in self._segments}
        for name in self.names:
            for suffix in BESIDE:
                base = parse_name(name, suffix)
                if base is not None and base not in bases:
                    self._files.remove(self._path(name))

    def _count(self, *, cut: int = 0, scanned: int = 0) -> None:
        report = self.report
        self.report = attrs.evolve(
            report,
            cut_bytes=report.cut_bytes + cut,
            cut_from_offset=self._end if cut and report.cut_from_offset < 0 else report.cut_from_offset,
            scanned_bytes=report.scanned_bytes + scanned,
        )

    def _sync(self, first: int) -> None:
        """A cut, too: what was cut away must not come back behind the next append."""
        paths = (segment.path(self._directory) for segment in self._segments[first:])
        held = tuple(path for path in paths if self._files.exists(path))
        FlushPlan(self._directory, held, (self._directory,), self._recovery_point or 0, self._end).run(self._files)

    # --- producers and transactions -----------------------------------------------------------------

    def _tidy_snapshots(self) -> None:
        offsets = snapshot.offsets_of(self.names)
        for offset in snapshot.not_needed(offsets, self._segments, self._end):
            self._files.remove(self._path(_snapshot_name(offset)))

    def _load_producers(self, offset: int) -> bool:
        try:
            self._producers = producers.decode(self._files.read(self._path(_snapshot_name(offset))))
        except (CorruptMessage, FileNotFoundError):
            return False
        self._snapshot_offset = offset
        return True

    def _load_aborted(self, end: int) -> None:
        """The aborted transactions whose markers lie before `end`."""
        held = Aborted()
        for segment in self._segments:
            data = self._read(file_name(segment.base_offset, txn_index.SUFFIX))
            if data:
                held.load(data, segment.base_offset, end)
        self._aborted = held if len(held) else None

    def _replay(self) -> None:
        """From the newest snapshot that can be read, then every batch behind it."""
        self._tidy_snapshots()
        begin = self._segments[0].base_offset
        for offset in reversed(snapshot.offsets_of(self.names)):
            if offset <= self._end and self._load_producers(offset):
                begin = offset
                break
        self._load_aborted(begin)
        for at, segment in enumerate(self._segments):
            following = self._segments[at + 1].base_offset if at + 1 < len(self._segments) else self._end
            if following > begin:
                self._replay_segment(segment, begin)

    def _replay_segment(self, segment: Segment, begin: int) -> None:
        path = segment.path(self._directory)
        for start, end in damage.runs(self._damages, segment, self._position_of(segment, begin)):
            try:
                for _, header, batch in walk(self._files, path, start, end):
                    if header.base_offset >= begin and header.producer_id >= 0:
                        self._replay_batch(header, batch)
            except CorruptMessage:  # below the recovery point; whoever reads it meets the damage
                continue

    def _position_of(self, segment: Segment, offset: int) -> int:
        """A place in the segment from which `offset` is ahead."""
        relative = offset - segment.base_offset - 1
        if relative < 0 or not segment.index_bytes:
            return 0
        path = segment.path(self._directory)
        try:
            at = index.floor_in_file(
                self._files, segment.path(self._directory, INDEX), segment.index_bytes, relative
            )  # fmt: skip
        except FileNotFoundError:
            return 0
        return at if is_batch(self._files, path, at, segment.base_offset, offset) else 0

    def _replay_batch(self, header: BatchHeader, batch: memoryview) -> None:
        if crc_of(batch, 0, header.size) != header.crc:
            return
        first = self._producers.replay(header)
        if first != NO_OFFSET and marker_of(batch) == ABORT:
            still_open = self._producers.first_open_offset()
            stable = header.next_offset if still_open is None else still_open
            self._aborted = self._aborted or Aborted()
            self._aborted.add(header.producer_id, first, header.last_offset, stable)

    # --- the end ------------------------------------------------------------------------------------

    def write_anew(self) -> None:
        """After a failed sync the page cache may hold what the disk does not: write it to a new file and sync."""
        flushed = self._number(OFFLINE) or 0
        for at, segment in enumerate(self._segments):
            end = self._segments[at + 1].base_offset if at + 1 < len(self._segments) else self._end
            if segment.size and end > flushed:
                self._copy(segment.path(self._directory), segment.size)

    def _copy(self, path: str, size: int) -> None:
        files, copy = self._files, path + ".restore"
        files.remove(copy)
        for position in range(0, size, COPY_BYTES):
            files.write_at(copy, [files.read_at(path, position, min(COPY_BYTES, size - position))], position)
        files.sync(copy)
        files.rename(copy, path)
        files.forget(path)

    def finish(self, make: type[L]) -> L:
        self._epochs.truncate(max(self._end, 1))
        start = max(self._start, self._segments[0].base_offset)
        return make(
            self._directory,
            self._settings,
            leader_epoch=self._leader_epoch,
            segments=self._segments,
            log_start_offset=min(start, self._end),
            log_end_offset=self._end,
            producers=self._producers,
            epochs=self._epochs,
            damages=tuple(self._damages),
            aborted=self._aborted,
            snapshot_offset=self._snapshot_offset,
            checkpointed=self._checkpointed,
            is_whole=self._is_whole,
        )


def _snapshot_name(offset: int) -> str:
    return file_name(offset, SNAPSHOT)
