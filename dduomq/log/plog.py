"""One partition's log as a pure machine: it plans what the disk is to do, and changes when that is done.

Always true: log_start_offset <= flushed_offset <= log_end_offset and high_watermark <= log_end_offset; offsets
given to batches rise without a gap; a plan changes nothing until `written`; one write plan at a time.
The segments are Kafka's, so are the names of the marks.
"""

from collections import deque
from collections.abc import Sequence

import attrs

from dduomq.errors import DduomqError, InvariantBroken, OffsetOutOfRange, Overloaded
from dduomq.limits import (
    PENDING_INDEX_ENTRIES_MAX,
    RESERVE_STEP_BYTES,
    RESERVE_STEP_BYTES_MAX,
    SNAPSHOT_INTERVAL_BYTES,
)
from dduomq.log import damage, retention, txn_index
from dduomq.log.checks import check_batch
from dduomq.log.damage import Damage
from dduomq.log.draft import Draft, Ended, Placed
from dduomq.log.epochs import NAME as EPOCHS_NAME
from dduomq.log.epochs import EpochCache
from dduomq.log.plans import (
    LOG_START,
    RECOVERY_POINT,
    Appended,
    FlushPlan,
    Outcome,
    PendingBatch,
    ReadPlan,
    Removal,
    Remove,
    Replace,
    Seek,
    Step,
    Steps,
    Sync,
    TimeSeek,
    Truncate,
    WritePlan,
    encode_number,
    encode_whole,
    index_steps,
)
from dduomq.log.producers import NO_OFFSET, Producers
from dduomq.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX, Segment, file_name
from dduomq.log.settings import TimestampType, TopicSettings
from dduomq.log.tail import Tail
from dduomq.log.txn_index import ABORT, Aborted
from dduomq.wire.batch import NO_PRODUCER_ID, stamp, stamp_append_time

__all__ = [
    "Appended", "FlushPlan", "LogDescription", "PartitionLog", "PendingBatch", "ReadPlan", "Removal", "Seek",
    "TimeSeek", "WritePlan",
]  # fmt: skip

RELATIVE_OFFSET_MAX = 2**31 - 1
SUFFIXES = (LOG, INDEX, TIME_INDEX, SNAPSHOT, txn_index.SUFFIX)


@attrs.frozen
class LogDescription:
    """A frozen picture of a log."""

    log_start_offset: int
    log_end_offset: int
    high_watermark: int
    last_stable_offset: int
    flushed_offset: int
    size_bytes: int
    segments: int
    producers: int


class PartitionLog:
    """See the file's head. All positions are bytes, all times wall-clock ms."""

    __slots__ = (
        "_aborted", "_aborted_saved", "_checkpointed", "_damages", "_dirty", "_dirty_directories", "_dirty_indexes",
        "_is_whole", "_pending", "_pending_times", "_planned", "_snapshot_offset", "_start_checkpointed", "_tail",
        "_undecided", "_unsnapped", "directory", "epochs", "flushed_offset", "high_watermark", "leader_epoch",
        "log_end_offset", "log_start_offset", "producers", "segments", "settings", "size_bytes",
    )  # fmt: skip

    def __init__(
        self,
        directory: str,
        settings: TopicSettings,
        *,
        leader_epoch: int,
        segments: list[Segment],
        log_start_offset: int,
        log_end_offset: int,
        producers: Producers,
        epochs: EpochCache,
        damages: tuple[Damage, ...] = (),
        aborted: Aborted | None = None,
        snapshot_offset: int = -1,
        checkpointed: tuple[int, int] = (-1, -1),
        is_whole: bool = False,
    ) -> None:
        """`checkpointed`: the recovery point and log start that the disk has; `is_whole`: as a clean stop left them."""
        self.directory = directory
        self.settings = settings
        self.leader_epoch = leader_epoch
        self.segments = segments
        self.log_start_offset = log_start_offset
        self.log_end_offset = log_end_offset
        self.flushed_offset = log_end_offset
        self.high_watermark = log_end_offset
        self.producers = producers
        self.epochs = epochs
        self.size_bytes = sum(segment.size for segment in segments)
        self._tail: Tail | None = None
        self._pending: list[tuple[int, int]] | None = None
        self._pending_times: list[tuple[int, int]] | None = None
        self._dirty: set[str] | None = None
        self._dirty_directories = True
        self._dirty_indexes = False
        self._checkpointed, self._start_checkpointed = checkpointed
        self._is_whole = is_whole
        self._unsnapped = 0
        self._snapshot_offset = snapshot_offset
        self._planned = False
        self._damages = damages
        self._aborted = aborted
        self._aborted_saved = 0 if aborted is None else len(aborted)
        self._undecided: deque[tuple[int, int]] | None = None  # (marker, first offset) above the high watermark

    @property
    def active(self) -> Segment:
        return self.segments[-1]

    @property
    def last_stable_offset(self) -> int:
        """Below it every transaction has ended, by a marker that is itself below the high watermark (KIP-98)."""
        stable = self.high_watermark
        if self.producers.open_transactions:
            stable = min(stable, *self.producers.open_transactions.values())
        if self._undecided:
            stable = min(stable, *(first for _, first in self._undecided))
        return max(stable, min(self.log_start_offset, self.high_watermark))

    # --- appending ----------------------------------------------------------------------------------

    def has_room(self, records: int, size_bytes: int) -> bool:
        """Whether a bounded topic's partition can take so much more."""
        held = self.log_end_offset - self.log_start_offset
        return retention.has_room(
            self.settings, held=held, size_bytes=self.size_bytes, records=records, more_bytes=size_bytes
        )

    def plan_append(self, batches: Sequence[PendingBatch], now_ms: int, *, internal: bool = False) -> WritePlan:
        """Give each batch its place, or the reason why it gets none; the others are not held up by it.

        Offsets and leader epoch are stamped into the batches. Only `internal` callers may append control batches.
        """
        if self._planned:
            raise InvariantBroken("a write plan is in flight already")
        rolled = self._rolled(batches, now_ms)
        active = rolled or self.active
        offset, position = self.log_end_offset, active.size
        offset_max = active.base_offset + RELATIVE_OFFSET_MAX
        draft = Draft(rolled)
        outcomes: list[Outcome] = []
        buffers: list[memoryview] = []
        for batch in batches:
            try:
                check_batch(batch.header, self.settings, now_ms, internal=internal or batch.is_own)
                if offset + batch.header.last_offset_delta > offset_max:
                    raise Overloaded("the segment can't take so many records at once; send again")
                outcome = self._admit(batch, offset, now_ms, draft)
            except DduomqError as error:
                stored = self.producers.stored(batch.header, draft.overlay)  # a limit may have changed since
                outcomes.append(error if stored is None else Appended(stored.base_offset, stored.last_offset, -1))
                continue
            if outcome is None:
                outcome = self._place(batch, offset, position, now_ms, draft.placed)
                buffers.append(batch.view)
                offset = outcome.last_offset + 1
                position += batch.header.size
            outcomes.append(outcome)
        return self._write_plan(active, draft, outcomes, buffers, offset, position)

    def _admit(self, batch: PendingBatch, offset: int, now_ms: int, draft: Draft) -> Appended | None:
        """Ask the producers: where the batch lies already, or None if it may be stored at `offset`."""
        header, producers, overlay = batch.header, self.producers, draft.overlay
        pid = header.producer_id
        if pid == NO_PRODUCER_ID:
            return None
        if header.is_control:
            overlay[pid], first = producers.ended(header, now_ms, overlay)
            if first != NO_OFFSET:
                last = offset + header.last_offset_delta
                still_open = producers.first_open_offset(overlay)
                stable = last + 1 if still_open is None else still_open
                is_abort = txn_index.marker_of(batch.view) == ABORT
                draft.ended.append(Ended(pid, first, last, stable, is_abort))
            return None
        stored = producers.check(header, overlay)
        if stored is not None:
            return Appended(stored.base_offset, stored.last_offset, -1)
        overlay[pid] = producers.after(header, offset, now_ms, overlay)
        return None

    def _place(self, batch: PendingBatch, offset: int, position: int, now_ms: int, placed: list[Placed]) -> Appended:
        header, append_time = batch.header, -1
        stamp(batch.view, 0, offset, self.leader_epoch)
        if self.settings.message_timestamp_type is TimestampType.LOG_APPEND_TIME and not header.is_control:
            header = stamp_append_time(batch.view, 0, header, now_ms)
            append_time = now_ms
        placed.append(Placed(header, offset, position, header.max_timestamp))
        return Appended(offset, offset + header.last_offset_delta, append_time)

    def _write_plan(
        self,
        active: Segment,
        draft: Draft,
        outcomes: list[Outcome],
        buffers: list[memoryview],
        end_offset: int,
        end_position: int,
    ) -> WritePlan:
        size = end_position - active.size
        before: list[Step] = []
        if not size:
            draft = Draft(None)
        else:
            self._planned = True
            draft.epochs = self._new_epoch()
            before = self._steps_before(draft)
        reserve_to = 0
        if end_position > active.reserved:
            step = min(max(active.reserved, RESERVE_STEP_BYTES), RESERVE_STEP_BYTES_MAX)
            reserve_to = min(max(end_position, active.reserved + step), max(self.settings.segment_bytes, end_position))
        path = active.path(self.directory)
        return WritePlan(
            tuple(outcomes), path, active.size, tuple(buffers), size, reserve_to, end_offset,
            draft.rolled is not None, tuple(before), draft,
        )  # fmt: skip

    def _steps_before(self, draft: Draft) -> list[Step]:
        """What a write needs done first: a roll, a new epoch's line, room for more index entries."""
        steps = self._roll_steps() if draft.rolled is not None else []
        if draft.epochs is not None:
            steps.append(Replace(f"{self.directory}/{EPOCHS_NAME}", draft.epochs.encode()))
        if self._pending and len(self._pending) >= PENDING_INDEX_ENTRIES_MAX and draft.rolled is None:
            steps += self._index_steps(self.active)
        return steps

    def _rolled(self, batches: Sequence[PendingBatch], now_ms: int) -> Segment | None:
        """A new segment, when the active one is old, or too full for these batches."""
        active, settings = self.active, self.settings
        if not active.size or not batches:
            return None
        size = spanned = 0
        for batch in batches:
            size += batch.header.size
            spanned += batch.header.last_offset_delta + 1
        is_full = active.size + size > settings.segment_bytes
        is_old = active.created_ms >= 0 and now_ms - active.created_ms > settings.segment_ms
        is_wide = self.log_end_offset - active.base_offset + spanned > RELATIVE_OFFSET_MAX
        return Segment(self.log_end_offset) if is_full or is_old or is_wide else None

    def _roll_steps(self) -> list[Step]:
        """Close the active segment's files: its index entries, its unused space, a producer snapshot."""
        active = self.active
        self._last_time(active)
        steps: list[Step] = self._index_steps(active)
        if active.reserved > active.size:
            steps.append(Truncate(active.path(self.directory), active.size))
        steps += self._aborted_steps(active)
        return [*steps, *self._snapshot_steps()]

    def _snapshot_steps(self) -> list[Step]:
        """A producer snapshot of all that is written; the one before goes, unless a segment begins there."""
        before = self._snapshot_offset
        steps: list[Step] = [Replace(self._snapshot_path(self.log_end_offset), self.producers.encode())]
        if before not in {-1, self.log_end_offset} and all(held.base_offset != before for held in self.segments):
            steps.append(Remove(self._snapshot_path(before)))
        return steps

    def _snapshot_path(self, offset: int) -> str:
        return f"{self.directory}/{file_name(offset, SNAPSHOT)}"

    def _aborted_steps(self, segment: Segment) -> list[Step]:
        """The active segment's aborted transactions, if there are new ones."""
        if self._aborted is None or len(self._aborted) == self._aborted_saved:
            return []
        data = self._aborted.encode(segment.base_offset, self.log_end_offset)
        return [Replace(segment.path(self.directory, txn_index.SUFFIX), data)]

    def _last_time(self, segment: Segment) -> None:
        """As Kafka does: a segment's time index ends with its largest timestamp."""
        if segment.max_timestamp > segment.indexed_timestamp:
            times = [*(self._pending_times or ())]
            times.append((segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset))
            self._pending_times = times
            segment.indexed_timestamp = segment.max_timestamp

    def _index_steps(self, segment: Segment) -> list[Step]:
        base = segment.path(self.directory, "")
        return index_steps(
            base, segment.index_bytes, segment.time_index_bytes, self._pending or (), self._pending_times or ()
        )

    def _new_epoch(self) -> EpochCache | None:
        """The epochs with this leadership's first append noted, None if it is already."""
        if self.leader_epoch <= self.epochs.latest:
            return None
        epochs = EpochCache(self.epochs.entries)
        epochs.assign(self.leader_epoch, self.log_end_offset)
        return epochs

    def abandon(self, plan: WritePlan) -> None:
        """The write failed and was cut back: it is as if it had never been planned."""
        del plan
        self._planned = False

    def written(self, plan: WritePlan, now_ms: int) -> None:
        """The plan's bytes are in the file."""
        if not plan.size:
            return
        self._planned = False
        draft = plan.state
        assert isinstance(draft, Draft)
        if draft.rolled is not None:
            self._rolled_to(draft.rolled)
        elif plan.before and self._pending and len(self._pending) >= PENDING_INDEX_ENTRIES_MAX:
            self._forget_pending(self.active)
        if draft.epochs is not None:
            self.epochs = draft.epochs
        if self._dirty is None:
            self._dirty = set()
        self._dirty.add(plan.path)
        self._take(draft.placed, now_ms)
        active = self.active
        active.reserved = max(active.reserved, plan.reserve_to, active.size)
        self.size_bytes += plan.size
        self._unsnapped += plan.size
        self.log_end_offset = plan.end_offset
        if draft.overlay:
            self.producers.take(draft.overlay)
        for ended in draft.ended:
            self._end_transaction(ended)

    def _rolled_to(self, segment: Segment) -> None:
        active = self.active
        self._forget_pending(active)
        if self._dirty is None:
            self._dirty = set()
        self._dirty |= {active.path(self.directory, INDEX), active.path(self.directory, TIME_INDEX)}
        self._dirty_directories = True
        self._snapshotted()
        self.segments.append(segment)
        self._tail = None

    def _snapshotted(self) -> None:
        self._snapshot_offset, self._unsnapped = self.log_end_offset, 0
        if self._aborted is not None:
            self._aborted_saved = len(self._aborted)

    def _end_transaction(self, ended: Ended) -> None:
        if self._undecided is None:
            self._undecided = deque()
        self._undecided.append((ended.last_offset, ended.first_offset))
        if ended.is_abort:
            if self._aborted is None:
                self._aborted = Aborted()
            self._aborted.add(ended.producer_id, ended.first_offset, ended.last_offset, ended.last_stable_offset)

    def _take(self, placed: list[Placed], now_ms: int) -> None:
        active = self.active
        if self._tail is None:
            self._tail = Tail()
        if not active.size:
            active.created_ms = now_ms
        interval = self.settings.index_interval_bytes
        for item in placed:
            header = item.header
            last = item.base_offset + header.last_offset_delta
            self._tail.add(item.base_offset, item.position, header.size, last + 1)
            if item.max_timestamp > active.max_timestamp:
                active.max_timestamp, active.max_timestamp_offset = item.max_timestamp, last
            if item.position - active.indexed_position > interval:
                self._index(active, last, item.position)
        end = placed[-1]
        active.written_ms = now_ms
        active.size = end.position + end.header.size
        active.next_offset = end.base_offset + end.header.last_offset_delta + 1

    def _index(self, segment: Segment, last_offset: int, position: int) -> None:
        if self._pending is None or self._pending_times is None:
            self._pending, self._pending_times = [], []
        self._pending.append((last_offset - segment.base_offset, position))
        times = self._pending_times
        if segment.max_timestamp > segment.indexed_timestamp:
            times.append((segment.max_timestamp, segment.max_timestamp_offset - segment.base_offset))
            segment.indexed_timestamp = segment.max_timestamp
        segment.indexed_position = position

    def _forget_pending(self, segment: Segment) -> None:
        """The pending index entries are in their files."""
        self._dirty_indexes = self._dirty_indexes or bool(self._pending or self._pending_times)
        segment.index_bytes += 8 * len(self._pending or ())
        segment.time_index_bytes += 12 * len(self._pending_times or ())
        self._pending = self._pending_times = None

    # --- flushing -----------------------------------------------------------------------------------

    def plan_flush(self) -> FlushPlan | None:
        """Sync what is written and not synced; None when there is nothing."""
        if not self._dirty and self.flushed_offset == self.log_end_offset:
            return None
        paths = tuple(sorted(self._dirty or ()))
        self._dirty = None
        directories: tuple[str, ...] = ()
        if self._dirty_directories:
            directories = (self.directory, self.directory.rpartition("/")[0])
            self._dirty_directories = False
        return FlushPlan(self.directory, paths, directories, self.flushed_offset, self.log_end_offset)

    def flushed(self, end_offset: int) -> None:
        """Everything below `end_offset` is on the disk."""
        self.flushed_offset = max(self.flushed_offset, min(end_offset, self.log_end_offset))

    def advance_high_watermark(self, offset: int) -> None:
        """All below `offset` may be read; never goes back."""
        self.high_watermark = max(self.high_watermark, min(offset, self.log_end_offset))
        while self._undecided and self._undecided[0][0] < self.high_watermark:
            self._undecided.popleft()

    # --- reading ------------------------------------------------------------------------------------

    def read_plan(
        self, offset: int, max_bytes: int, upper: int, *, committed: bool = False
    ) -> ReadPlan | Seek | None:  # fmt: skip
        """Where the batches from `offset` on lie, whole ones below `upper`; None when there are none yet.

        At least one batch is given, however large. `committed`: with the aborted transactions to skip. Raises
        `OffsetOutOfRange`, and `CorruptMessage` inside a quarantined range.
        """
        if offset >= upper:
            if offset > self.log_end_offset:
                raise OffsetOutOfRange(f"offset {offset} is behind the end, {self.log_end_offset}")
            if offset >= self.log_start_offset:
                return None
        if offset < self.log_start_offset:
            raise OffsetOutOfRange(f"offset {offset} is gone, the log begins at {self.log_start_offset}")
        if self._damages:
            upper = damage.below(self._damages, offset, upper)
        tail = self._tail
        if tail is None or offset < tail.first_offset:
            return self._seek(offset, max_bytes, upper, committed)
        found = tail.find(offset, max_bytes, upper)
        if found is None:
            return None
        position, size, next_offset = found
        return ReadPlan(
            self.active.path(self.directory), position, size, next_offset,
            self._aborted_between(offset, next_offset) if committed else (),
        )  # fmt: skip

    def _aborted_between(self, offset: int, upper: int) -> tuple[tuple[int, int], ...]:
        return () if self._aborted is None else self._aborted.between(offset, upper)

    def _seek(self, offset: int, max_bytes: int, upper: int, committed: bool) -> Seek:
        at = self._segment_at(offset)
        segment = self.segments[at]
        is_active = segment is self.active
        begin, first, end = damage.readable(self._damages, segment, offset)
        return Seek(
            segment.path(self.directory), segment.path(self.directory, INDEX), segment.index_bytes,
            tuple(self._pending or ()) if is_active else (), segment.base_offset, first, begin, end,
            offset, upper, max_bytes, self._aborted_between(offset, upper) if committed else (),
        )  # fmt: skip

    def _segment_at(self, offset: int) -> int:
        low, high = 0, len(self.segments)
        while low < high:
            middle = (low + high) // 2
            if self.segments[middle].base_offset <= offset:
                low = middle + 1
            else:
                high = middle
        return max(low - 1, 0)

    def max_timestamp(self) -> tuple[int, int]:
        """(largest timestamp, its offset); (-1, -1) for an empty log."""
        best = max(self.segments, key=lambda segment: segment.max_timestamp)
        return best.max_timestamp, best.max_timestamp_offset

    def seek_time(self, timestamp_ms: int) -> TimeSeek:
        """The look for the first record at or after a time; only segments that may have it are read."""
        found = tuple(
            (segment.path(self.directory), segment.path(self.directory, TIME_INDEX), segment.base_offset, begin, end)
            for segment in self.segments
            if segment.size and (segment.max_timestamp >= timestamp_ms or segment.max_timestamp < 0)
            for begin, end in damage.runs(self._damages, segment)
        )
        return TimeSeek(timestamp_ms, found, self.log_start_offset)

    # --- housekeeping -------------------------------------------------------------------------------

    def plan_checkpoint(self) -> Steps | None:
        """What makes the next recovery short; None when nothing has changed."""
        if self._checkpointed == self.flushed_offset and self._start_checkpointed == self.log_start_offset:
            return None
        steps: list[Step] = []
        active = self.active
        if self._pending and not self._planned:
            steps += self._index_steps(active)
            self._forget_pending(active)
        if self._dirty_indexes:
            steps += [Sync(active.path(self.directory, suffix)) for suffix in (INDEX, TIME_INDEX)]
            self._dirty_indexes = False
        if self._unsnapped >= SNAPSHOT_INTERVAL_BYTES and not self._planned:
            steps += self._aborted_steps(active) + self._snapshot_steps()
            self._snapshotted()
        steps.append(Replace(f"{self.directory}/{RECOVERY_POINT}", encode_number(self.flushed_offset)))
        self._is_whole = False
        if self._start_checkpointed != self.log_start_offset:
            steps.append(Replace(f"{self.directory}/{LOG_START}", encode_number(self.log_start_offset)))
        self._checkpointed, self._start_checkpointed = self.flushed_offset, self.log_start_offset
        return Steps(tuple(steps))

    def plan_retention(self, now_ms: int) -> Removal | None:
        """The segments that age, size or capacity lets go; the one being written stays."""
        self.producers.expire(now_ms)
        seen, end = self.last_stable_offset, self.log_end_offset
        gone = retention.segments_to_go(
            self.segments, self.settings, now_ms, size_bytes=self.size_bytes, seen=seen, end=end
        )
        start = max(self.log_start_offset, self.segments[0].base_offset)
        if gone:
            start = max(start, end if gone == len(self.segments) else self.segments[gone].base_offset)
        return self._remove_before(retention.first_to_keep(self.settings, start=start, seen=seen, end=end))

    def delete_records(self, before_offset: int) -> Removal | None:
        """Move the log's start to `before_offset`. Raises `OffsetOutOfRange` beyond what consumers can see."""
        if before_offset > self.high_watermark or before_offset < 0:
            raise OffsetOutOfRange(f"records can be deleted up to offset {self.high_watermark}, not {before_offset}")
        removal = self._remove_before(max(before_offset, self.log_start_offset))
        if removal is None and self._start_checkpointed != self.log_start_offset:
            self._start_checkpointed = self.log_start_offset
            return Removal(self.directory, (), self.log_start_offset)
        return removal

    def _remove_before(self, start: int) -> Removal | None:
        """Drop the segments that lie wholly before `start`; the active one only when nothing is being written."""
        self.log_start_offset = start
        gone: list[Segment] = []
        while len(self.segments) > 1 and self.segments[1].base_offset <= start:
            gone.append(self.segments.pop(0))
        before: list[Step] = []
        if start >= self.log_end_offset and self.active.size and not self._planned:
            before = self._snapshot_steps()
            gone.append(self.segments.pop())
            self.segments.append(Segment(start))
            self._tail = self._pending = self._pending_times = None
            self._dirty_directories = True
            self._snapshotted()
        if not gone:
            return None
        self.size_bytes -= sum(segment.size for segment in gone)
        if self._aborted is not None:
            self._aborted_saved -= self._aborted.drop_before(self.segments[0].base_offset)
        self._start_checkpointed = start
        paths = [segment.path(self.directory, suffix) for segment in gone for suffix in SUFFIXES]
        return Removal(self.directory, tuple(paths), start, tuple(before))

    def plan_close(self) -> Steps:
        """The last steps, with everything on disk and unused space given back: the next start need not read the log."""
        active = self.active
        is_on_disk = (self._checkpointed, self._start_checkpointed) == (self.log_end_offset, self.log_start_offset)
        if (
            self._is_whole
            and is_on_disk
            and not (self._dirty or self._pending or self._dirty_indexes or active.reserved > active.size)
        ):
            return Steps(())
        paths = tuple(sorted({*(self._dirty or ()), active.path(self.directory)}))
        steps: list[Step] = [FlushPlan(self.directory, paths, (), self.flushed_offset, self.log_end_offset)]
        steps += self._roll_steps()
        self._forget_pending(active)
        if self._dirty_indexes:
            steps += [Sync(active.path(self.directory, suffix)) for suffix in (INDEX, TIME_INDEX)]
        steps.append(Replace(f"{self.directory}/{LOG_START}", encode_number(self.log_start_offset)))
        point = encode_whole(self.log_end_offset, active.base_offset, active.size)
        steps.append(Replace(f"{self.directory}/{RECOVERY_POINT}", point))
        return Steps(tuple(steps))

    def describe(self) -> LogDescription:
        return LogDescription(
            self.log_start_offset, self.log_end_offset, self.high_watermark, self.last_stable_offset,
            self.flushed_offset, self.size_bytes, len(self.segments), len(self.producers.states),
        )  # fmt: skip
