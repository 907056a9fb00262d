"""The write-ahead log of a member of the quorum, and its snapshots: what a `Ready` asks to be kept.

    DIRECTORY/wal-00000000000000000001.log     frames (`wal_frame.py`), one for each save
    DIRECTORY/snapshot-00000000000000000042    one frame, replaced whole

    save       u8 1 · u8 version · u64 term · vote · u64 commit · u8 anew? [u64 index · u64 term] · u32 count · entries
    snapshot   u8 2 · u8 version · index · term · configuration · data

Plain functions, each to be run as one disk job, one after the other. Always true: what `save` has returned from is
found again, or `open_wal` refuses; what lies in the log is synced before anything is built on it, also at the start; a
snapshot is on the disk before anything that it replaces goes; after a failed write or sync nothing is written any more,
as nobody knows what is on the disk. Each save holds the hard state, so a segment that goes takes none with it.
"""

from collections.abc import Sequence

import attrs

from dduomq.cluster.raft_ready import HardState, Stored
from dduomq.cluster.wal_frame import Place, is_torn, seal, unseal
from dduomq.cluster.wal_replay import Replay, Save, decode_save, encode_save
from dduomq.errors import CorruptMessage, StorageError, UnsupportedVersion
from dduomq.limits import RAFT_SEGMENT_BYTES
from dduomq.log.files import Files
from dduomq.wire.raft import VERSION, Cursor, put_snapshot, take_snapshot
from dduomq.wire.raft_messages import Configuration, LogEntry, Snapshot

NOTHING = Snapshot(0, 0, Configuration())
_SNAPSHOT = 2
_SEGMENTS, _SNAPSHOTS = "wal-", "snapshot-"


@attrs.frozen
class Recovered:
    """What was found. `cut_bytes`: so much of a torn save was cut off. `is_new`: nothing was ever saved here."""

    stored: Stored
    cut_bytes: int
    is_new: bool


@attrs.define
class Segment:
    """One file. `highest` is the highest index that it has an entry of."""

    number: int
    size: int = 0
    highest: int = 0


class Wal:
    """The log of one member; made by `open_wal`."""

    __slots__ = ("_directory", "_files", "_is_broken", "_segment_bytes", "_segments", "_snapshot")

    def __init__(
        self, files: Files, directory: str, segments: list[Segment], snapshot: Snapshot, segment_bytes: int
    ) -> None:
        self._files = files
        self._directory = directory
        self._segments = segments
        self._snapshot = snapshot
        self._segment_bytes = segment_bytes
        self._is_broken = False

    def save(self, hard_state: HardState, entries: Sequence[LogEntry], snapshot: Snapshot | None = None) -> None:
        """Keep these, synced. Raises `StorageError` or `DiskFull`, and from then on nothing else."""
        self._check()
        self._is_broken = True
        if snapshot is None:
            self._append(Save(hard_state, None, tuple(entries)))
        else:
            self._store(snapshot)
            self.begin_anew(hard_state, entries)
        self._is_broken = False

    def begin_anew(self, hard_state: HardState, entries: Sequence[LogEntry]) -> None:
        """The log is what follows the snapshot; all before is void."""
        self._append(Save(hard_state, (self._snapshot.index, self._snapshot.term), tuple(entries)))
        self._drop_before(len(self._segments) - 1)

    def compact(self, snapshot: Snapshot) -> None:
        """Keep a snapshot of what was applied; segments that hold nothing behind it go."""
        self._check()
        self._is_broken = True
        self._store(snapshot)
        first_kept = next(
            (at for at, segment in enumerate(self._segments[:-1]) if segment.highest >= snapshot.index),
            max(len(self._segments) - 1, 0),
        )
        self._drop_before(first_kept)
        self._is_broken = False

    def _check(self) -> None:
        if self._is_broken:
            raise StorageError(f"a write to {self._directory} failed, so nobody knows what it holds; restart the node")

    def _append(self, save: Save) -> None:
        """One frame, one write, one sync; a new segment when the last one is full, or all before it is void."""
        last = self._segments[-1] if self._segments else None
        is_new = last is None or last.size >= self._segment_bytes or save.anew is not None
        if last is None or is_new:
            last = Segment(1 if last is None else last.number + 1)
            self._segments.append(last)
        path = _segment_path(self._directory, last.number)
        parts = seal(encode_save(save), Place(last.number, last.size))
        self._files.write_at(path, parts, last.size)
        self._files.sync(path)
        if is_new:
            self._files.sync_dir(self._directory)
        last.size += sum(map(len, parts))
        last.highest = max(last.highest, save.highest)

    def _store(self, snapshot: Snapshot) -> None:
        body = b"".join([bytes((_SNAPSHOT, VERSION)), *put_snapshot(snapshot)])
        self._files.replace(
            _snapshot_path(self._directory, snapshot.index), b"".join(seal(body, Place(snapshot.index, 0)))
        )
        before, self._snapshot = self._snapshot, snapshot
        if before.index != snapshot.index:
            self._files.remove(_snapshot_path(self._directory, before.index))

    def _drop_before(self, count: int) -> None:
        """The oldest first, each for good before the next, so that what is left never has a gap."""
        for segment in self._segments[:count]:
            self._files.remove(_segment_path(self._directory, segment.number))
            self._files.sync_dir(self._directory)
        del self._segments[:count]


def open_wal(files: Files, directory: str, segment_bytes: int = RAFT_SEGMENT_BYTES) -> tuple[Wal, Recovered]:
    """The log, and what it holds. Raises `CorruptMessage` or `UnsupportedVersion` with what to do."""
    files.make_dir(directory)
    names = files.list(directory)
    for name in names:
        if name.endswith(".tmp"):
            files.remove(f"{directory}/{name}")
    snapshot = _newest_snapshot(files, directory, _numbers(names, _SNAPSHOTS, ""))
    numbers = _numbers(names, _SEGMENTS, ".log")
    if numbers and numbers != list(range(numbers[0], numbers[-1] + 1)):
        raise CorruptMessage(f"a segment is missing in {directory}; {_remedy(directory)}")
    replay = Replay(is_from_the_start=not numbers or numbers[0] == 1)
    segments, cut_bytes = [], 0
    for number in numbers:
        segment, cut_bytes = _read_segment(files, directory, number, replay, is_last=number == numbers[-1])
        segments.append(segment)
    if segments:
        _settle(files, directory, segments)
    wal = Wal(files, directory, segments, snapshot, segment_bytes)
    try:
        stored = replay.stored(snapshot)
    except CorruptMessage as error:
        raise CorruptMessage(f"{directory}: {error.message}; {_remedy(directory)}") from None
    if stored is None:  # a crash came between a received snapshot and the log that begins behind it
        stored = Stored(snapshot, attrs.evolve(replay.hard_state, commit=snapshot.index))
        wal.begin_anew(stored.hard_state, ())
    return wal, Recovered(stored, cut_bytes, is_new=snapshot == NOTHING and not replay.count)


def _settle(files: Files, directory: str, segments: list[Segment]) -> None:
    """What was read is synced, as a killed process may have left it unsynced; the last segment has a save, or goes."""
    path = _segment_path(directory, segments[-1].number)
    files.sync(path)
    if not segments[-1].size:
        files.remove(path)
        segments.pop()
    files.sync_dir(directory)


def _read_segment(
    files: Files, directory: str, number: int, replay: Replay, *, is_last: bool
) -> tuple[Segment, int]:  # fmt: skip
    """The segment, and how many bytes of a torn save were cut off its end."""
    path = _segment_path(directory, number)
    data = files.read(path)
    segment = Segment(number)
    while segment.size < len(data):
        place = Place(number, segment.size)
        found = unseal(data, place)
        if found is None:
            if not is_last or not is_torn(data, place):
                raise CorruptMessage(f"{path} is damaged at byte {segment.size}; {_remedy(directory)}")
            files.truncate(path, segment.size)
            return segment, len(data) - segment.size
        body, segment.size = found
        save = decode_save(body, path)
        try:
            replay.add(save)
        except CorruptMessage as error:
            raise CorruptMessage(f"{path}: {error.message}; {_remedy(directory)}") from None
        segment.highest = max(segment.highest, save.highest)
    return segment, 0


def _newest_snapshot(files: Files, directory: str, indexes: list[int]) -> Snapshot:
    """The newest; older ones go. A damaged one is refused: what it replaced is gone."""
    if not indexes:
        return NOTHING
    for index in indexes[:-1]:
        files.remove(_snapshot_path(directory, index))
    path = _snapshot_path(directory, indexes[-1])
    data = files.read(path)
    found = unseal(data, Place(indexes[-1], 0))
    if found is None or found[1] != len(data):
        raise CorruptMessage(f"{path} is damaged; {_remedy(directory)}")
    cursor = Cursor(found[0])
    kind, version = cursor.take(2)
    if kind != _SNAPSHOT or version > VERSION:
        raise UnsupportedVersion(f"{path} has type {kind} version {version}, written by a newer dduomq; start that one")
    snapshot = take_snapshot(cursor)
    cursor.end()
    return snapshot


def _numbers(names: Sequence[str], prefix: str, suffix: str) -> list[int]:
    middles = [name[len(prefix) : len(name) - len(suffix)] for name in names if name.startswith(prefix)]
    return sorted(int(middle) for middle in middles if middle.isdigit())


def _segment_path(directory: str, number: int) -> str:
    return f"{directory}/{_SEGMENTS}{number:020d}.log"


def _snapshot_path(directory: str, index: int) -> str:
    return f"{directory}/{_SNAPSHOTS}{index:020d}"


def _remedy(directory: str) -> str:
    return f"remove this member, delete {directory} and add the node anew: the others have all that it had"
