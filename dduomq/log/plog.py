"""One partition's log as a pure machine: it plans what the disk is to do, and changes when that is done.

Always true: log_start_offset <= flushed_offset <= log_end_offset and high_watermark <= log_end_offset; offsets
given to batches rise without a gap; a plan changes nothing until `written`; one write plan at a time.
The segments are Kafka's, so are the names of the marks.
"""

from collections import deque
from collections.abc import Sequence

import attrs

from dduomq.errors import (
    CorruptMessage,
    DduomqError,
    InvalidRecord,
    InvalidTimestamp,
    InvariantBroken,
    MessageTooLarge,
    OffsetOutOfRange,
)
from dduomq.limits import (
    PENDING_INDEX_ENTRIES_MAX,
    RESERVE_STEP_BYTES,
    RESERVE_STEP_BYTES_MAX,
    SNAPSHOT_INTERVAL_BYTES,
    TAIL_POSITIONS_MAX,
)
from dduomq.log.epochs import NAME as EPOCHS_NAME
from dduomq.log.epochs import EpochCache
from dduomq.log.plans import (
    LOG_START,
    OFFLINE,
    RECOVERY_POINT,
    Appended,
    Damage,
    FlushPlan,
    Outcome,
    PendingBatch,
    ReadPlan,
    Removal,
    Replace,
    Seek,
    Step,
    Steps,
    TimeSeek,
    Truncate,
    WritePlan,
    encode_number,
    index_steps,
)
from dduomq.log.producers import Producers, ProducerState
from dduomq.log.segment import INDEX, LOG, SNAPSHOT, TIME_INDEX, Segment, file_name
from dduomq.log.settings import UNBOUNDED, CapacityPolicy, TimestampType, TopicSettings
from dduomq.wire.batch import NO_PRODUCER_ID, BatchHeader, stamp, stamp_append_time

__all__ = [
    "Appended", "FlushPlan", "LogDescription", "PartitionLog", "PendingBatch", "ReadPlan", "Removal", "Seek",
    "TimeSeek", "WritePlan",
]  # fmt: skip

RELATIVE_OFFSET_MAX = 2**31 - 1


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


@attrs.frozen(slots=True)
class _Placed:
    """A batch and the place that a plan has given it."""

    header: BatchHeader
    base_offset: int
    position: int
    max_timestamp: int


@attrs.frozen
class _Planned:
    """What `written` must do with a plan."""

    placed: tuple[_Placed, ...]
    overlay: dict[int, ProducerState]
    rolled: Segment | None
    epochs: EpochCache | None


class PartitionLog:
    """See the file's head. All positions are bytes, all times wall-clock ms."""

    __slots__ = (
        "_checkpointed", "_damages", "_dirty", "_dirty_directories", "_pending", "_pending_times", "_planned",
        "_snapshot_size", "_start_checkpointed", "_tail", "directory", "epochs", "flushed_offset", "high_watermark",
        "leader_epoch", "log_end_offset", "log_start_offset", "producers", "segments", "settings", "size_bytes",
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
    ) -> None:
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
        self._tail: deque[tuple[int, int, int, int]] | None = None
        self._pending: list[tuple[int, int]] | None = None
        self._pending_times: list[tuple[int, int]] | None = None
        self._dirty: set[str] | None = None
        self._dirty_directories = True
        self._checkpointed = log_end_offset
        self._start_checkpointed = log_start_offset
        self._snapshot_size = self.size_bytes
        self._planned = False
        self._damages = damages

    @property
    def active(self) -> Segment:
        return self.segments[-1]

    @property
    def last_stable_offset(self) -> int:
        """Below it every transaction has ended (KIP-98)."""
        first_open = self.producers.first_open_offset()
        return self.high_watermark if first_open is None else min(first_open, self.high_watermark)

    # --- appending ----------------------------------------------------------------------------------

    def has_room(self, records: int, size_bytes: int) -> bool:
        """Whether a bounded topic's partition can take so much more."""
        settings = self.settings
        held = self.log_end_offset - self.log_start_offset
        if settings.capacity_records != UNBOUNDED and held + records > settings.capacity_records:
            return False
        return settings.capacity_bytes == UNBOUNDED or self.size_bytes + size_bytes <= settings.capacity_bytes

    def plan_append(self, batches: Sequence[PendingBatch], now_ms: int, *, internal: bool = False) -> WritePlan:
        """Give each batch its place, or the reason why it gets none; the others are not held up by it.

        Offsets and leader epoch are stamped into the batches. Only `internal` callers may append control batches.
        """
        if self._planned:
            raise InvariantBroken("a write plan is in flight already")
        rolled = self._rolled(batches[0].header.size, now_ms) if batches else None
        active = rolled or self.active
        offset, position = self.log_end_offset, active.size
        overlay: dict[int, ProducerState] = {}
        outcomes: list[Outcome] = []
        placed: list[_Placed] = []
        buffers: list[memoryview] = []
        for batch in batches:
            header = batch.header
            try:
                self._check(header, now_ms, internal=internal)
                outcome = self._duplicate(header, overlay)
            except DduomqError as error:
                outcomes.append(error)
                continue
            if outcome is None:
                outcome = self._place(batch, offset, position, now_ms, placed)
                if header.producer_id != NO_PRODUCER_ID and not header.is_control:
                    overlay[header.producer_id] = self.producers.after(header, offset, now_ms, overlay)
                buffers.append(batch.view)
                offset = outcome.last_offset + 1
                position += header.size
            outcomes.append(outcome)
        epochs = self._new_epoch() if placed else None
        return self._write_plan(active, rolled, outcomes, placed, buffers, offset, position, overlay, epochs)

    def _place(self, batch: PendingBatch, offset: int, position: int, now_ms: int, placed: list[_Placed]) -> Appended:
        header, append_time = batch.header, -1
        stamp(batch.view, 0, offset, self.leader_epoch)
        if self.settings.message_timestamp_type is TimestampType.LOG_APPEND_TIME and not header.is_control:
            header = stamp_append_time(batch.view, 0, header, now_ms)
            append_time = now_ms
        placed.append(_Placed(header, offset, position, header.max_timestamp))
        return Appended(offset, offset + header.last_offset_delta, append_time)

    def _write_plan(
        self,
        active: Segment,
        rolled: Segment | None,
        outcomes: list[Outcome],
        placed: list[_Placed],
        buffers: list[memoryview],
        end_offset: int,
        end_position: int,
        overlay: dict[int, ProducerState],
        epochs: EpochCache | None,
    ) -> WritePlan:
        size = end_position - active.size
        if size:
            self._planned = True
        rolls = rolled is not None and size > 0
        before: list[Step] = self._roll_steps() if rolls else []
        if epochs is not None:
            before.append(Replace(f"{self.directory}/{EPOCHS_NAME}", epochs.encode()))
        if self._pending and len(self._pending) >= PENDING_INDEX_ENTRIES_MAX and not rolls:
            before += self._index_steps(self.active)
        reserve_to = 0
        if end_position > active.reserved:
            step = min(max(active.reserved, RESERVE_STEP_BYTES), RESERVE_STEP_BYTES_MAX)
            reserve_to = min(max(end_position, active.reserved + step), max(self.settings.segment_bytes, end_position))
        state = _Planned(tuple(placed), overlay, rolled if rolls else None, epochs)
        path = active.path(self.directory)
        return WritePlan(
            tuple(outcomes),
            path,
            active.size,
            tuple(buffers),
            size,
            reserve_to,
            end_offset,
            rolls,
            tuple(before),
            state,
        )

    def _check(self, header: BatchHeader, now_ms: int, *, internal: bool) -> None:
        settings = self.settings
        if header.size > settings.max_message_bytes:
            raise MessageTooLarge(
                f"the record batch has {header.size} bytes, "
                f"the topic's max.message.bytes is {settings.max_message_bytes}"
            )
        if header.count < 1 or header.last_offset_delta < header.count - 1:
            raise InvalidRecord(f"a batch of {header.count} records with last offset delta {header.last_offset_delta}")
        if header.is_control and not internal:
            raise InvalidRecord("only the broker writes control batches")
        if settings.message_timestamp_type is TimestampType.CREATE_TIME and header.max_timestamp >= 0:
            ahead = header.max_timestamp - now_ms
            if ahead > settings.message_timestamp_after_max_ms:
                raise InvalidTimestamp(
                    f"a record's time is {ahead} ms ahead of the broker's clock, "
                    f"{settings.message_timestamp_after_max_ms} is allowed (message.timestamp.after.max.ms)"
                )
            if now_ms - header.base_timestamp > settings.message_timestamp_before_max_ms:
                raise InvalidTimestamp(
                    f"a record's time is {now_ms - header.base_timestamp} ms in the past, "
                    f"{settings.message_timestamp_before_max_ms} is allowed (message.timestamp.before.max.ms)"
                )

    def _duplicate(self, header: BatchHeader, overlay: dict[int, ProducerState]) -> Appended | None:
        if header.producer_id == NO_PRODUCER_ID or header.is_control:
            return None
        stored = self.producers.check(header, overlay)
        return None if stored is None else Appended(stored.base_offset, stored.last_offset, -1)

    def _rolled(self, first_size: int, now_ms: int) -> Segment | None:
        """A new segment, when the active one is full or old."""
        active, settings = self.active, self.settings
        if not active.size:
            return None
        is_full = active.size + first_size > settings.segment_bytes
        is_old = active.created_ms >= 0 and now_ms - active.created_ms > settings.segment_ms
        is_wide = self.log_end_offset - active.base_offset > RELATIVE_OFFSET_MAX - 1_000_000
        return Segment(self.log_end_offset) if is_full or is_old or is_wide else None

    def _roll_steps(self) -> list[Step]:
        """Close the active segment's files: its index entries, its unused space, a producer snapshot."""
        active = self.active
        self._last_time(active)
        steps: list[Step] = self._index_steps(active)
        if active.reserved > active.size:
            steps.append(Truncate(active.path(self.directory), active.size))
        if self.producers.states:
            steps.append(self._snapshot())
        return steps

    def _snapshot(self) -> Replace:
        return Replace(f"{self.directory}/{file_name(self.log_end_offset, SNAPSHOT)}", self.producers.encode())

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
        state = plan.state
        assert isinstance(state, _Planned)
        if state.rolled is not None:
            self._forget_pending(self.active)
            self.segments.append(state.rolled)
            self._tail = None
            self._dirty_directories = True
        elif plan.before and self._pending and len(self._pending) >= PENDING_INDEX_ENTRIES_MAX:
            self._forget_pending(self.active)
        if state.epochs is not None:
            self.epochs = state.epochs
        self._dirty = {*(self._dirty or ()), plan.path}
        self._take(state.placed, now_ms)
        active = self.active
        active.reserved = max(active.reserved, plan.reserve_to, active.size)
        self.size_bytes += plan.size
        self.log_end_offset = plan.end_offset
        if state.overlay:
            self.producers.take(state.overlay)

    def _take(self, placed: tuple[_Placed, ...], now_ms: int) -> None:
        active = self.active
        if self._tail is None:
            self._tail = deque(maxlen=TAIL_POSITIONS_MAX)
        if not active.size:
            active.created_ms = now_ms
        interval = self.settings.index_interval_bytes
        for item in placed:
            header = item.header
            last = item.base_offset + header.last_offset_delta
            self._tail.append((item.base_offset, item.position, header.size, last + 1))
            if item.max_timestamp > active.max_timestamp:
                active.max_timestamp, active.max_timestamp_offset = item.max_timestamp, last
            if item.position - active.indexed_position > interval:
                self._index(active, last, item.position)
            if header.is_control:
                self.producers.end_transaction(header, now_ms)
        end = placed[-1]
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
        return FlushPlan(paths, directories, self.log_end_offset)

    def flushed(self, end_offset: int) -> None:
        """Everything below `end_offset` is on the disk."""
        self.flushed_offset = max(self.flushed_offset, min(end_offset, self.log_end_offset))

    def advance_high_watermark(self, offset: int) -> None:
        self.high_watermark = max(self.high_watermark, min(offset, self.log_end_offset))

    # --- reading ------------------------------------------------------------------------------------

    def read_plan(self, offset: int, max_bytes: int, upper: int) -> ReadPlan | Seek | None:
        """Where the batches from `offset` on lie, whole ones below `upper`; None when there are none yet.

        At least one batch is given, however large. Raises `OffsetOutOfRange`, and `CorruptMessage` inside a
        quarantined range.
        """
        if offset >= upper:
            if offset > self.log_end_offset:
                raise OffsetOutOfRange(f"offset {offset} is behind the end, {self.log_end_offset}")
            if offset >= self.log_start_offset:
                return None
        if offset < self.log_start_offset:
            raise OffsetOutOfRange(f"offset {offset} is gone, the log begins at {self.log_start_offset}")
        if self._damages:
            upper = self._below_damage(offset, upper)
        tail = self._tail
        if tail and offset >= tail[0][0]:
            return self._read_tail(tail, offset, max_bytes, upper)
        return self._seek(offset, max_bytes, upper)

    def _read_tail(
        self, tail: deque[tuple[int, int, int, int]], offset: int, max_bytes: int, upper: int
    ) -> ReadPlan | None:
        start = end = -1
        next_offset = offset
        for _base, position, size, following in tail:
            if following <= offset:
                continue
            if following > upper or (start >= 0 and position + size - start > max_bytes):
                break
            if start < 0:
                start = position
            end, next_offset = position + size, following
        return None if start < 0 else ReadPlan(self.active.path(self.directory), start, end - start, next_offset)

    def _seek(self, offset: int, max_bytes: int, upper: int) -> Seek:
        at = self._segment_at(offset)
        segment = self.segments[at]
        is_active = segment is self.active
        begin, end = 0, segment.size
        for damage in self._damages:
            if damage.base_offset == segment.base_offset:
                if damage.end <= offset:
                    begin = max(begin, damage.next_position)
                else:
                    end = min(end, damage.position)
        return Seek(
            segment.path(self.directory), segment.path(self.directory, INDEX), segment.index_bytes,
            tuple(self._pending or ()) if is_active else (), segment.base_offset, begin, end,
            offset, upper, max_bytes,
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

    def _below_damage(self, offset: int, upper: int) -> int:
        for damage in self._damages:
            if damage.first <= offset < damage.end:
                raise CorruptMessage(
                    f"offsets {damage.first} to {damage.end - 1} are damaged on disk and are not served; "
                    f"go on at {damage.end}"
                )
            if offset < damage.first:
                return min(upper, damage.first)
        return upper

    def max_timestamp(self) -> tuple[int, int]:
        """(largest timestamp, its offset); (-1, -1) for an empty log."""
        best = max(self.segments, key=lambda segment: segment.max_timestamp)
        return best.max_timestamp, best.max_timestamp_offset

    def seek_time(self, timestamp_ms: int) -> TimeSeek:
        """The look for the first record at or after a time; only segments that may have it are read."""
        found = tuple(
            (segment.path(self.directory), segment.path(self.directory, TIME_INDEX), segment.base_offset, segment.size)
            for segment in self.segments
            if segment.size and (segment.max_timestamp >= timestamp_ms or segment.max_timestamp < 0)
        )
        return TimeSeek(timestamp_ms, found, self.log_start_offset)

    # --- housekeeping -------------------------------------------------------------------------------

    def plan_checkpoint(self) -> Steps | None:
        """What makes the next recovery short; None when nothing has changed."""
        if self._checkpointed == self.flushed_offset and self._start_checkpointed == self.log_start_offset:
            return None
        steps: list[Step] = []
        if self._pending and not self._planned:
            steps += self._index_steps(self.active)
            self._forget_pending(self.active)
        steps.append(Replace(f"{self.directory}/{RECOVERY_POINT}", encode_number(self.flushed_offset)))
        if self._start_checkpointed != self.log_start_offset:
            steps.append(Replace(f"{self.directory}/{LOG_START}", encode_number(self.log_start_offset)))
        if self.size_bytes - self._snapshot_size >= SNAPSHOT_INTERVAL_BYTES and self.producers.states:
            steps.append(self._snapshot())
            self._snapshot_size = self.size_bytes
        self._checkpointed, self._start_checkpointed = self.flushed_offset, self.log_start_offset
        return Steps(tuple(steps))

    def plan_retention(self, now_ms: int) -> Removal | None:
        """The segments that age, size or capacity lets go; the one being written stays."""
        self.producers.expire(now_ms)
        settings = self.settings
        gone = 0
        size = self.size_bytes
        while gone < len(self.segments) - 1 and self.segments[gone + 1].base_offset <= self.high_watermark:
            segment = self.segments[gone]
            is_old = settings.retention_ms >= 0 and 0 <= segment.max_timestamp < now_ms - settings.retention_ms
            is_over = settings.retention_bytes >= 0 and size - segment.size >= settings.retention_bytes
            if not (is_old or is_over or self._is_over_capacity(size)):
                break
            size -= segment.size
            gone += 1
        start = self.segments[gone].base_offset if gone else self.log_start_offset
        if settings.capacity_policy is CapacityPolicy.DROP_OLDEST and settings.capacity_records != UNBOUNDED:
            start = max(start, min(self.log_end_offset - settings.capacity_records, self.high_watermark))
        return self._remove_before(max(start, self.log_start_offset))

    def _is_over_capacity(self, size_bytes: int) -> bool:
        settings = self.settings
        return (
            settings.capacity_policy is CapacityPolicy.DROP_OLDEST
            and settings.capacity_bytes != UNBOUNDED
            and size_bytes > settings.capacity_bytes
        )

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
        """Drop the segments that lie wholly before `start`."""
        self.log_start_offset = start
        paths: list[str] = []
        while len(self.segments) > 1 and self.segments[1].base_offset <= start:
            segment = self.segments.pop(0)
            self.size_bytes -= segment.size
            paths += [segment.path(self.directory, suffix) for suffix in (LOG, INDEX, TIME_INDEX, SNAPSHOT)]
        if not paths:
            return None
        self._start_checkpointed = start
        return Removal(self.directory, tuple(paths), start)

    def plan_close(self) -> Steps:
        """The last steps, with everything on disk and unused space given back: the next start need not read the log."""
        active = self.active
        sync = tuple(sorted({*(self._dirty or ()), *([active.path(self.directory)] if active.size else ())}))
        steps = self._roll_steps()
        self._forget_pending(active)
        steps.append(Replace(f"{self.directory}/{LOG_START}", encode_number(self.log_start_offset)))
        steps.append(Replace(f"{self.directory}/{RECOVERY_POINT}", encode_number(self.log_end_offset)))
        return Steps(tuple(steps), sync)

    def plan_offline(self, reason: str) -> Replace:
        """The marker of a log that a disk failure took out of service, with what is surely on disk."""
        text = encode_number(self.flushed_offset) + reason.encode() + b"\n"
        return Replace(f"{self.directory}/{OFFLINE}", text)

    def describe(self) -> LogDescription:
        return LogDescription(
            self.log_start_offset, self.log_end_offset, self.high_watermark, self.last_stable_offset,
            self.flushed_offset, self.size_bytes, len(self.segments), len(self.producers.states),
        )  # fmt: skip
