"""`--verify`: is a log what it should be?

Looked at: the CRC of each batch; offsets that rise, within a segment and from one to the next; leader epochs
that never fall; a tail that is incomplete although the log goes on in a later segment; index and time index
entries that point at what they say; snapshots and checkpoints that can be read. Always true: indexes are read
before their log, so that a running node never looks wrong.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import attrs

from dduomq.dumping.beside import index_entries, rows, time_index_entries, wrong_checkpoint
from dduomq.dumping.scan import ZEROS, Batch, Damage, LogFile, Tail, scan
from dduomq.dumping.show import time_text
from dduomq.dumping.targets import Kind, Target
from dduomq.errors import CorruptMessage
from dduomq.log import index, time_index
from dduomq.log.segment import parse_name
from dduomq.wire.batch import BatchHeader

Progress = Callable[[int], None]


@attrs.frozen
class Fault:
    """What is wrong, and at which byte of which file."""

    path: Path
    position: int
    text: str

    def __str__(self) -> str:
        return f"{self.path} at byte {self.position}: {self.text}"


@attrs.define
class Verdict:
    """What was found in one file. `notes` are worth knowing and no fault."""

    path: Path
    batches: int = 0
    records: int = 0
    bytes: int = 0
    first_offset: int | None = None
    next_offset: int = 0
    index_entries: int = 0
    faults: list[Fault] = attrs.field(factory=list)
    notes: list[str] = attrs.field(factory=list)

    def fault(self, position: int, text: str, path: Path | None = None) -> None:
        self.faults.append(Fault(path or self.path, position, text))


def verify(targets: Iterable[Target], progress: Progress = lambda _: None) -> Iterator[Verdict]:
    """One verdict for each segment (its indexes with it) and each other file. `progress` gets bytes done."""
    done: set[Path] = set()
    newest: dict[Path, int] = {}
    before: tuple[Path, int] | None = None
    for target in targets:
        path = target.path
        if target.kind in {Kind.INDEX, Kind.TIME_INDEX}:
            path = path.with_suffix(Kind.LOG.value)
            if not path.exists():
                verdict = Verdict(target.path)
                verdict.fault(0, f"there is no {path.name} beside it")
                yield verdict
                continue
        if path in done:
            continue
        done.add(path)
        if target.kind in {Kind.SNAPSHOT, Kind.TXN_INDEX, Kind.CHECKPOINT}:
            yield _verify_small(target)
            continue
        end = before[1] if before is not None and before[0] == path.parent else None
        if path.parent not in newest:
            newest[path.parent] = _newest_segment(path.parent)
        is_newest = target.base_offset >= newest[path.parent]
        verdict = _Segment(path, target.base_offset, end, is_newest, progress).verify()
        before = (path.parent, verdict.next_offset)
        yield verdict


def _newest_segment(directory: Path) -> int:
    """The base offset of the segment that is written to, -1 if there is none."""
    names = (parse_name(path.name, Kind.LOG.value) for path in directory.glob("*" + Kind.LOG.value))
    return max((base for base in names if base is not None), default=-1)


def _verify_small(target: Target) -> Verdict:
    verdict = Verdict(target.path)
    try:
        if target.kind is Kind.CHECKPOINT and (why := wrong_checkpoint(target.path)):
            verdict.fault(0, why)
        for _ in rows(target):
            pass
    except CorruptMessage as error:
        verdict.fault(0, error.message)
    return verdict


class _Segment:
    """One `.log` with its indexes, walked once."""

    def __init__(self, path: Path, base_offset: int, before: int | None, is_newest: bool, progress: Progress) -> None:
        self._path = path
        self._base = base_offset
        self._before = before
        self._is_newest = is_newest
        self._progress = progress
        self._index_path = path.with_suffix(Kind.INDEX.value)
        self._times_path = path.with_suffix(Kind.TIME_INDEX.value)
        self._index = deque(enumerate(_entries(index_entries, self._index_path)))
        self._times = deque(enumerate(_entries(time_index_entries, self._times_path)))
        self._epoch = -1
        self._damaged = False
        self._verdict = Verdict(path, next_offset=base_offset)

    def verify(self) -> Verdict:
        verdict = self._verdict
        verdict.index_entries = len(self._index) + len(self._times)
        for path, entry_bytes in ((self._index_path, index.ENTRY_BYTES), (self._times_path, time_index.ENTRY_BYTES)):
            rest = path.stat().st_size % entry_bytes if path.exists() else 0
            if rest:
                verdict.notes.append(f"{path.name} ends inside an entry, {rest} bytes of it: being written, or torn")
        if self._before is not None and self._base < self._before:
            verdict.fault(0, f"begins at offset {self._base}, the segment before ends at {self._before}")
        elif self._before is not None and self._base > self._before:
            verdict.notes.append(f"offsets {self._before}..{self._base - 1} are missing before it")
        with LogFile(self._path) as log:
            for found in scan(log):
                if isinstance(found, Batch):
                    self._batch(found)
                elif isinstance(found, Damage):
                    self._damaged = True
                    verdict.fault(found.position, f"{found.size} bytes are no batch: {found.why}")
                else:
                    self._tail(found)
                self._progress(found.header.size if isinstance(found, Batch) else found.size)
            verdict.bytes = log.size
        self._left_over()
        return verdict

    def _batch(self, batch: Batch) -> None:
        verdict, header = self._verdict, batch.header
        span = f"offsets {header.base_offset}..{header.last_offset}"
        if not batch.crc_is_right:
            verdict.fault(batch.position, f"wrong CRC ({span})")
            self._damaged = True
        if header.base_offset < verdict.next_offset:
            verdict.fault(batch.position, f"{span} come after offset {verdict.next_offset - 1}")
        if header.leader_epoch < self._epoch:
            verdict.fault(batch.position, f"leader epoch {header.leader_epoch} comes after {self._epoch}")
        self._epoch = max(self._epoch, header.leader_epoch)
        self._check_index(batch)
        self._check_times(batch.header)
        verdict.batches += 1
        verdict.records += header.count
        if verdict.first_offset is None:
            verdict.first_offset = header.base_offset
        verdict.next_offset = max(header.next_offset, verdict.next_offset)

    def _tail(self, tail: Tail) -> None:
        """What ends too early is being written or torn; in a segment that others follow, something is lost."""
        text = f"incomplete tail of {tail.size} bytes"
        if self._is_newest or tail.why == ZEROS:
            self._verdict.notes.append(f"{text} at byte {tail.position} ({tail.why}): being written, or torn")
            return
        self._damaged = True
        self._verdict.fault(tail.position, f"{text} ({tail.why}), and later segments follow")

    def _check_index(self, batch: Batch) -> None:
        while self._index and self._index[0][1][1] <= batch.position:
            number, (relative, position) = self._index.popleft()
            if position != batch.position:
                self._index_fault(number, f"points at byte {position}, where no batch begins")
            elif self._base + relative != batch.header.last_offset:
                self._index_fault(
                    number, f"says offset {self._base + relative}, the batch there ends with {batch.header.last_offset}"
                )

    def _check_times(self, header: BatchHeader) -> None:
        while self._times and self._base + self._times[0][1][1] <= header.last_offset:
            number, (timestamp, relative) = self._times.popleft()
            offset = self._base + relative
            if offset < header.base_offset:
                self._time_fault(number, f"points at offset {offset}, which no batch holds")
            elif timestamp != header.max_timestamp:
                what = f"says {time_text(timestamp)} for offset {offset}, its batch {time_text(header.max_timestamp)}"
                self._time_fault(number, what)

    def _left_over(self) -> None:
        """Entries that point beyond the last batch."""
        for number, (_, position) in self._index:
            self._index_fault(number, f"points at byte {position}, beyond the log's last batch")
        for number, (_, relative) in self._times:
            self._time_fault(number, f"points at offset {self._base + relative}, beyond the log's last")

    def _index_fault(self, number: int, text: str) -> None:
        if not self._damaged:  # an index can't agree with batches that can't be read
            self._verdict.fault(number * 8, f"entry {number} {text}", self._index_path)

    def _time_fault(self, number: int, text: str) -> None:
        if not self._damaged:
            self._verdict.fault(number * 12, f"entry {number} {text}", self._times_path)


def _entries(read: Callable[[Path], list[tuple[int, int]]], path: Path) -> list[tuple[int, int]]:
    try:
        return read(path)
    except FileNotFoundError:
        return []
