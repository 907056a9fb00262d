"""What a log wants done on the disk, as values: each has `run(files)` and touches nothing else.

Always true: a plan holds copies or frozen pieces of the log's state, so that it may run in another thread
while the log goes on; running it twice does the same as once.
"""

import re
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from typing import TypeAlias

import attrs

from dduomq.errors import CorruptMessage, DduomqError, OffsetOutOfRange, StorageError
from dduomq.log import index, time_index
from dduomq.log.files import Files
from dduomq.log.segment import is_batch, walk
from dduomq.log.torn import find_behind
from dduomq.ports import FileSync, Job
from dduomq.wire.batch import BatchHeader, crc_of

RECOVERY_POINT = "recovery-point"
LOG_START = "log-start-offset"
OFFLINE = "offline"
WHOLE_LINE = re.compile(rb"0\n\d+\n(\d+) (\d+)\n")


def encode_number(number: int) -> bytes:
    """A checkpoint file with one number: version line, then the number."""
    return f"0\n{number}\n".encode()


def encode_whole(offset: int, base_offset: int, size: int) -> bytes:
    """The recovery point of a log that was closed in good order, with the base offset and size of its last segment."""
    return encode_number(offset) + b"%d %d\n" % (base_offset, size)


def decode_whole(data: bytes) -> tuple[int, int] | None:
    """(base offset, size) of the last segment as a close in good order left it; None after a mere checkpoint."""
    found = WHOLE_LINE.fullmatch(data)
    return None if found is None else (int(found[1]), int(found[2]))


def mark_offline(files: Files, directory: str, flushed_offset: int, reason: str) -> None:
    """Say on the disk that a sync of this log has failed: no later look at its files may take them for synced."""
    text = encode_number(flushed_offset) + reason.encode() + b"\n"
    with suppress(StorageError):  # a disk that takes not even this: the log is out of service all the same
        files.replace(f"{directory}/{OFFLINE}", text)


def decode_number(data: bytes) -> int | None:
    """The number in a checkpoint file; None if it can't be read."""
    lines = data.split(b"\n")
    if len(lines) < 2 or lines[0] != b"0" or not lines[1].isdigit():
        return None
    return int(lines[1])


@attrs.frozen
class PendingBatch:
    """A batch to append: its bytes, writable and CRC-checked, and its header.

    `is_own`: the broker made it: it may be a control batch, or have holes, as compaction leaves them.
    """

    view: memoryview
    header: BatchHeader
    is_own: bool = False


@attrs.frozen(slots=True)
class Appended:
    """Where a batch lies, or lay already."""

    base_offset: int
    last_offset: int
    append_time_ms: int


Outcome: TypeAlias = Appended | DduomqError


@attrs.frozen
class WriteAt:
    """Bytes for one place of one file."""

    path: str
    position: int
    data: bytes

    def run(self, files: Files) -> None:
        files.write_at(self.path, [self.data], self.position)


@attrs.frozen
class Replace:
    """A small file's new content."""

    path: str
    data: bytes

    def run(self, files: Files) -> None:
        files.replace(self.path, self.data)


@attrs.frozen
class Truncate:
    """Cuts a file to its used size: gives reserved space back."""

    path: str
    size: int

    def run(self, files: Files) -> None:
        files.truncate(self.path, self.size)


@attrs.frozen
class Sync:
    """Brings a file to the disk; one that retention has removed is needed by nobody."""

    path: str

    def run(self, files: Files) -> None:
        try:
            files.sync(self.path)
        except (FileNotFoundError, StorageError):
            if files.exists(self.path):
                raise


@attrs.frozen
class Remove:
    """Removes a file that another has replaced."""

    path: str

    def run(self, files: Files) -> None:
        files.remove(self.path)


@attrs.frozen
class FlushPlan:
    """Sync what was written between the offsets.

    A failure is noted in the log's directory by the same job: whoever opens the log next must know of it, even
    if the actor that asked for the sync has crashed meanwhile.
    """

    directory: str
    paths: tuple[str, ...]
    directories: tuple[str, ...]
    flushed_offset: int
    end_offset: int

    def run(self, files: Files) -> None:
        try:
            for path in self.paths:
                Sync(path).run(files)
            for directory in self.directories:
                files.sync_dir(directory)
        except StorageError as error:
            mark_offline(files, self.directory, self.flushed_offset, error.message)
            raise

    def job(self, files: Files) -> Job:
        """`run`, as a job for the disk."""
        if len(self.paths) != 1 or self.directories:
            return partial(self.run, files)
        (path,) = self.paths
        return FileSync(partial(self.run, files), partial(files.lease, path), partial(self._failed, files, path))

    def _failed(self, files: Files, path: str, reason: str) -> None:
        mark_offline(files, self.directory, self.flushed_offset, f"syncing {path} failed: {reason}")
        raise StorageError(f"syncing {path} failed: {reason}")


Step: TypeAlias = WriteAt | Replace | Truncate | Sync | Remove | FlushPlan


@attrs.frozen
class WritePlan:
    """One write of many batches into one segment; `outcomes` in the order of the batches that were asked for."""

    outcomes: tuple[Outcome, ...]
    path: str
    position: int
    buffers: tuple[memoryview, ...]
    size: int
    reserve_to: int
    end_offset: int
    rolled: bool
    before: tuple[Step, ...]
    state: object  # the log's own note of what `written` must do

    def run(self, files: Files) -> None:
        """Raises `DiskFull` or `StorageError`; the log then calls `abandon`."""
        for step in self.before:
            step.run(files)
        files.write_at(self.path, self.buffers, self.position, reserve_to=self.reserve_to)


@attrs.frozen
class Steps:
    """A few small writes one after another: checkpoints, closing."""

    steps: tuple[Step, ...]

    def run(self, files: Files) -> None:
        for step in self.steps:
            step.run(files)


@attrs.frozen
class Removal:
    """Segments that nobody needs any more. The start is written first: a crash between leaves only old files."""

    directory: str
    paths: tuple[str, ...]
    log_start_offset: int
    before: tuple[Step, ...] = ()

    def run(self, files: Files) -> None:
        for step in self.before:
            step.run(files)
        files.replace(f"{self.directory}/{LOG_START}", encode_number(self.log_start_offset))
        for path in self.paths:
            files.remove(path)
        if self.paths:
            files.sync_dir(self.directory)


@attrs.frozen
class ReadPlan:
    """Whole batches: `size` bytes at `position` of `path`; the next read begins at `next_offset`."""

    path: str
    position: int
    size: int
    next_offset: int
    aborted: tuple[tuple[int, int], ...] = ()


class _BadBatch(Exception):
    """The batch at `position`, which should hold offset `expected`, can't be read."""

    def __init__(self, position: int, expected: int) -> None:
        super().__init__(position, expected)
        self.position = position
        self.expected = expected


@attrs.frozen
class Seek:
    """Find the batches from `offset` on by the index and the log itself; also brings them into the page cache."""

    path: str
    index_path: str
    index_bytes: int
    pending: tuple[tuple[int, int], ...]
    base_offset: int
    begin_offset: int
    begin_position: int
    end_position: int
    offset: int
    upper: int
    max_bytes: int
    aborted: tuple[tuple[int, int], ...] = ()

    def run(self, files: Files) -> ReadPlan | None:
        """None when nothing whole lies between `offset` and `upper` here.

        Raises `CorruptMessage` rather than give a batch with a wrong CRC, `OffsetOutOfRange` if it was removed
        meanwhile.
        """
        position, expected = self._floor(files), -1
        try:
            if position <= self.begin_position or not is_batch(
                files, self.path, position, self.base_offset, self.offset
            ):  # without an index, or with a wrong one, the log itself tells
                position, expected = self.begin_position, self.begin_offset
            while True:
                try:
                    return self._collect(files, position, expected)
                except _BadBatch as bad:
                    position, expected = self._behind(files, bad)
        except FileNotFoundError:
            raise OffsetOutOfRange(f"offset {self.offset} has just been removed") from None

    def _behind(self, files: Files, bad: "_BadBatch") -> tuple[int, int]:
        """Where to go on when the bad batch lies wholly before what is asked for."""
        behind = find_behind(files, self.path, bad.position, self.end_position, bad.expected)
        if behind is not None and behind[1].base_offset <= self.offset:
            return behind[0], behind[1].base_offset
        after = "" if behind is None else f"; go on at {behind[1].base_offset}"
        raise CorruptMessage(
            f"offset {self.offset} is damaged on disk and is not served: {self.path} at byte {bad.position}{after}"
        )

    def _collect(self, files: Files, position: int, expected: int) -> ReadPlan | None:
        """Whole batches from `position` on, which holds offset `expected`, -1 if that is not known."""
        start = -1
        next_offset = self.offset

        def is_enough(at: int, header: BatchHeader) -> bool:
            return start >= 0 and (header.next_offset > self.upper or at + header.size - start > self.max_bytes)

        try:
            for at, header, batch in walk(files, self.path, position, self.end_position, is_enough):
                if expected not in {-1, header.base_offset} or crc_of(batch, 0, header.size) != header.crc:
                    break
                if header.last_offset >= self.offset:
                    if header.next_offset > self.upper:
                        return self._plan(start, position, next_offset)
                    start, next_offset = at if start < 0 else start, header.next_offset
                position, expected = at + header.size, header.next_offset
                if expected >= self.upper:
                    break
        except CorruptMessage as error:  # a header of impossible shape: what came before it is good
            if start < 0:
                raise _BadBatch(position, expected) from error
        if start < 0 and position < self.end_position and expected < self.upper:
            raise _BadBatch(position, expected)
        return self._plan(start, position, next_offset)

    def _plan(self, start: int, end: int, next_offset: int) -> ReadPlan | None:
        if start < 0:
            return None
        aborted = tuple(entry for entry in self.aborted if entry[1] < next_offset)
        return ReadPlan(self.path, start, end - start, next_offset, aborted)

    def _floor(self, files: Files) -> int:
        relative = self.offset - self.base_offset
        if self.pending and self.pending[0][0] <= relative:
            return index.floor(self.pending, relative)
        if not self.index_bytes:
            return 0
        try:
            position = index.floor_in_file(files, self.index_path, self.index_bytes, relative)
        except FileNotFoundError:
            return 0
        return position if position < self.end_position else 0


@attrs.frozen
class TimeSeek:
    """Find the first record at or after a time, over the segments that may have it."""

    timestamp_ms: int
    segments: tuple[tuple[str, str, int, int, int], ...]  # (log, time index, base offset, begin and end position)
    log_start_offset: int

    def run(self, files: Files) -> tuple[int, int] | None:
        """(timestamp, offset), or None when every record is older."""
        for path, time_path, base_offset, begin, end in self.segments:
            try:
                indexed = self._begin(files, path, time_path, base_offset, end)
                found = self._look(files, path, max(begin, indexed), end)
            except (CorruptMessage, FileNotFoundError):  # damaged, or just removed: later segments may have it
                continue
            if found is not None:
                return found
        return None

    def _look(self, files: Files, path: str, begin: int, end: int) -> tuple[int, int] | None:
        for _, header, batch in walk(files, path, begin, end):
            if header.is_control or header.last_offset < self.log_start_offset:
                continue
            if header.max_timestamp >= self.timestamp_ms and crc_of(batch, 0, header.size) == header.crc:
                return _record_at(batch, header, self.timestamp_ms, self.log_start_offset)
        return None

    def _begin(self, files: Files, path: str, time_path: str, base_offset: int, end: int) -> int:
        """A position before which every record is older, by the two indexes."""
        index_path = time_path.removesuffix(".timeindex") + ".index"
        try:
            entries = time_index.decode(files.read(time_path))
            index_bytes = files.size(index_path)
        except FileNotFoundError:
            return 0
        relative = time_index.offset_before(entries, self.timestamp_ms)
        if not relative or not index_bytes:
            return 0
        position = index.floor_in_file(files, index_path, index_bytes, relative)
        is_right = position < end and is_batch(files, path, position, base_offset, base_offset + relative)
        return position if is_right else 0


def _record_at(batch: memoryview, header: BatchHeader, timestamp_ms: int, start: int) -> tuple[int, int]:
    """The first record of a batch at or after the time; of one that can't be read, the batch's own marks."""
    from dduomq.wire import records

    try:
        for record in records.decode(batch):
            if record.timestamp_ms >= timestamp_ms and record.offset >= start:
                return record.timestamp_ms, record.offset
    except (CorruptMessage, DduomqError):
        return header.max_timestamp, header.base_offset
    return header.max_timestamp, header.base_offset


def index_steps(
    base_path: str, index_bytes: int, time_bytes: int,
    pending: Sequence[tuple[int, int]], pending_times: Sequence[tuple[int, int]],
) -> list[Step]:  # fmt: skip
    """The writes that put pending index entries into their files."""
    steps: list[Step] = []
    if pending:
        steps.append(WriteAt(base_path + ".index", index_bytes, index.encode(pending)))
    if pending_times:
        steps.append(WriteAt(base_path + ".timeindex", time_bytes, time_index.encode(pending_times)))
    return steps
