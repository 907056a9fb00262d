"""One partition: the only task that touches one log.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| Append | listeners | Appended | nothing | planned with all that waits, written, acked at its durability |
| Fetch | listeners | FetchPlan | nothing | a place to read from; or its watcher is woken by the next append |
| FindOffset | listeners | OffsetAt | nothing | first, last, or first at a time |
| EndOfEpoch | listeners | EpochEnd | nothing | where a leader epoch's last record lies |
| ListProducers | listeners | tuple of ActiveProducer | nothing | the producers it remembers |
| Purge | admin | log start offset | nothing | moves the log's start, drops whole segments |
| Configure | router | nothing | nothing | new settings from the next append on |
| Describe | admin | PartitionState | nothing | a frozen picture |
| Restore | admin | None | nothing | reopens a log that a disk failure took offline |
| Flush | janitor | nothing | nothing | syncs what was written, for topics that flush by interval |
| Checkpoint | janitor | nothing | nothing | indexes, recovery point and snapshots to disk |
| Retain | janitor | nothing | nothing | removes what the topic's retention lets go |
| Close | router | None | nothing | finishes what is in flight, then ends; with `delete`, leaves no trace |
| Assign | router | nothing | nothing | who leads and who is in sync, from the metadata: leads, or follows |
| ReplicaFetch | listeners | FetchPlan | nothing | what a follower is to have, up to the log's end; says how far it is |
| Replicate | replication | FollowerAt | nothing | the leader's answer: appended as it is, or the log is cut first |
| RecordWritten | isr | nothing | nothing | a change of the partition's record was made, or not |
| CheckReplicas | isr | nothing | nothing | followers that are behind for too long leave the in-sync set |
| Completed | disk | nothing | nothing | a disk job of this incarnation has ended |

What several replicas of a partition do with one another is in `partition_replica.py`; a node alone has none of it.
Always true: at most one write and one flush are in flight; an append is answered once, after its bytes are
as durable as its topic promises; nothing above the high watermark leaves the node; a failed sync ends the
log's service on this node, since the kernel no longer knows what is on disk (see "Can applications recover
from fsync failures?", Rebello et al., 2020).
"""

from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, ClassVar

import attrs

from dduomq.actors.actor import Actor, Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.janitor import Dirty
from dduomq.actors.partition_following import Replica
from dduomq.actors.partition_messages import (
    EARLIEST,
    LATEST,
    LEADER_ONLY,
    MAX_TIMESTAMP,
    READ_COMMITTED,
    Acked,
    ActiveProducer,
    Append,
    Checkpoint,
    Close,
    Configure,
    Describe,
    EndOfEpoch,
    EpochEnd,
    Fetch,
    FetchPlan,
    FindOffset,
    Flush,
    ListProducers,
    OffsetAt,
    PartitionState,
    Purge,
    Restore,
    Retain,
    Watcher,
)
from dduomq.actors.partition_replica import ReplicaPart
from dduomq.actors.partition_world import PartitionSpec as PartitionSpec
from dduomq.actors.partition_world import PartitionWorld as PartitionWorld
from dduomq.actors.replica_messages import (
    Assign,
    CheckReplicas,
    RecordWritten,
    ReplicaFetch,
    Replicate,
)
from dduomq.errors import (
    CapacityReached,
    DduomqError,
    FencedLeaderEpoch,
    LeaderNotAvailable,
    NodeStopping,
    Overloaded,
    RequestTimedOut,
    StorageError,
    UnknownLeaderEpoch,
    UnknownTopicOrPartition,
)
from dduomq.limits import (
    INLINE_SEEK_BYTES_MAX,
    INLINE_WRITE_BYTES_MAX,
    PARKED_APPENDS_MAX,
    WATCHERS_MAX,
)
from dduomq.log.files import NotResident
from dduomq.log.places import Places
from dduomq.log.plog import Appended, PartitionLog, ReadPlan, Seek, WritePlan
from dduomq.log.recover import RecoveryReport, open_log
from dduomq.log.replica_log import open_replica
from dduomq.log.settings import CapacityPolicy, Durability, Storage
from dduomq.ports import Job


@attrs.frozen(kw_only=True)
class Completed(Message):
    """`owner` is the incarnation that asked; another one's completion is ignored."""

    owner: "PartitionActor"
    then: Callable[[Any], None]
    result: object


class PartitionActor(ReplicaPart, Actor):
    """Plans, writes, flushes, answers. `on_open` is called once, with None or the error."""

    __slots__ = (
        "_append_waits", "_chores", "_closing", "_disk", "_files", "_flushing", "_is_dirty", "_log", "_logger",
        "_offline", "_on_open", "_parked", "_places", "_replica", "_settings", "_spec", "_unacked", "_watchers",
        "_world", "_writing", "appended_batches", "appended_bytes", "fetches",
    )  # fmt: skip
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        Append: "_on_append",
        Fetch: "_on_fetch",
        FindOffset: "_on_find_offset",
        EndOfEpoch: "_on_end_of_epoch",
        ListProducers: "_on_list_producers",
        Purge: "_on_purge",
        Configure: "_on_configure",
        Describe: "_on_describe",
        Restore: "_on_restore",
        Flush: "_on_flush",
        Checkpoint: "_on_checkpoint",
        Retain: "_on_retain",
        Close: "_on_close",
        Assign: "_on_assign",
        ReplicaFetch: "_on_replica_fetch",
        Replicate: "_on_replicate",
        RecordWritten: "_on_record_written",
        CheckReplicas: "_on_check_replicas",
        Completed: "_on_completed",
    }

    def __init__(
        self,
        mailbox: Mailbox,
        spec: PartitionSpec,
        world: PartitionWorld,
        on_open: Callable[[object], None],
    ) -> None:
        super().__init__(mailbox)
        self._spec = spec
        self._settings = spec.settings
        self._world = world
        self._files = world.memory if spec.settings.storage is Storage.MEMORY else world.files
        self._on_open = on_open
        self._disk = DiskClient(world.disk)
        self._logger = world.log.bind(topic=spec.topic, partition=spec.partition)
        self._replica = None if spec.record is None else Replica(spec.record, spec.record_version)
        self._log: PartitionLog | None = None
        self._offline: StorageError | None = None
        self._places = Places()
        self._append_waits: list[Append] = []
        self._unacked: deque[tuple[int, Append, Appended]] = deque()
        self._watchers: list[Watcher] = []
        self._parked: list[Message] = []
        self._writing: tuple[WritePlan, list[Append]] | None = None
        self._chores: deque[tuple[Job, Callable[[Any], None], Message | None]] = deque()
        self._flushing = False
        self._is_dirty = False
        self._closing: Close | None = None
        self.appended_batches = 0
        self.appended_bytes = 0
        self.fetches = 0

    # --- opening ------------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._open(restore=False, reply=None)

    def _open(self, *, restore: bool, reply: Reply[None] | None) -> None:
        spec, now_ms = self._spec, self._world.clock.wall_ms()

        opening = open_log if self._replica is None else open_replica

        def job() -> object:
            return opening(
                self._files, spec.directory, self._settings, leader_epoch=spec.leader_epoch,
                topic_id=spec.topic_id, clean=spec.clean and not restore, now_ms=now_ms, restore=restore,
            )  # fmt: skip

        self._submit(job, lambda result: self._opened(result, reply))

    def _opened(self, result: object, reply: Reply[None] | None) -> None:
        report: RecoveryReport | None = None
        if isinstance(result, BaseException):
            if not isinstance(result, DduomqError):
                raise result
            self._offline = result if isinstance(result, StorageError) else StorageError(result.message)
            self._logger.error("log_offline", reason=result.message)
            if reply is not None:
                reply.fail(self._offline)
        else:
            assert isinstance(result, tuple)
            log, report = result
            self._log, self._offline, self._places = log, None, Places()
            self._report(report)
            if reply is not None:
                reply.set(None)
        if self._replica is not None:
            self._replica_opened(report)
        self._on_open(self._offline)
        parked, self._parked = self._parked, []
        for message in parked:
            self.mailbox.post(message)

    def _report(self, report: RecoveryReport) -> None:
        if report.cut_bytes or report.quarantined or report.rebuilt_indexes:
            self._logger.warning("log_recovered", **attrs.asdict(report))

    def _ready(self, message: Message) -> PartitionLog | None:
        """The log; None while it opens (the message is kept until then). Raises when offline."""
        if self._offline is not None:
            raise self._offline
        if self._replica is not None and not self._is_to_lead():
            self._check_leads()
        if self._log is None:
            if len(self._parked) >= PARKED_APPENDS_MAX:
                raise LeaderNotAvailable
            self._parked.append(message)
        return self._log

    # --- appending ----------------------------------------------------------------------------------

    def _on_append(self, message: Append) -> None:
        if self._closing is not None:
            raise NodeStopping
        if self._offline is not None:
            raise self._offline
        if self._replica is not None:
            self._check_append(message)
        if len(self._append_waits) >= PARKED_APPENDS_MAX:
            raise Overloaded(f"{self.mailbox.name} has {PARKED_APPENDS_MAX} appends waiting")
        self._append_waits.append(message)

    def after_drain(self) -> None:
        if self._append_waits and self._writing is None and self._log is not None and self._may_write():
            self._write(self._log)
        if self._closing is not None:
            self._maybe_close()

    def _write(self, log: PartitionLog) -> None:
        appends = self._admitted(log)
        if not appends:
            return
        plan = log.plan_append([append.batch for append in appends], self._world.clock.wall_ms())
        if not plan.size:
            self._settle(log, plan, appends)
        elif self._is_inline(plan):
            began = self._world.clock.monotonic()
            try:
                plan.run(self._files)
            except DduomqError as error:
                self._write_failed(log, plan, appends, error)
            else:
                self._written(log, plan, appends)
            self._world.pace.note(began, self._world.clock.monotonic())
        else:
            self._writing = (plan, appends)
            self._submit(lambda: plan.run(self._files), self._write_done)

    def _is_inline(self, plan: WritePlan) -> bool:
        """Writes into the page cache cost less than the hop to a thread and back, unless the kernel holds them up."""
        is_small = plan.size <= INLINE_WRITE_BYTES_MAX and not plan.before and not plan.rolled
        return is_small and self._world.pace.is_fast(self._world.clock.monotonic())

    def _admitted(self, log: PartitionLog) -> list[Append]:
        """The waiting appends that may go now: in time, and within the topic's capacity."""
        waits, self._append_waits = self._append_waits, []
        now = self._world.clock.monotonic()
        admitted: list[Append] = []
        bounded = self._settings.is_bounded and self._settings.capacity_policy is not CapacityPolicy.DROP_OLDEST
        count = size = 0
        for at, append in enumerate(waits):
            if append.deadline < now:
                append.refuse(RequestTimedOut("the time given ran out before the append"))
                continue
            if bounded and not log.has_room(count + append.batch.header.count, size + append.batch.header.size):
                if self._settings.capacity_policy is CapacityPolicy.BLOCK:
                    self._append_waits = waits[at:]
                    break
                append.refuse(CapacityReached(self._full_text()))
                continue
            count += append.batch.header.count
            size += append.batch.header.size
            admitted.append(append)
        return admitted

    def _full_text(self) -> str:
        return (
            f"{self.mailbox.name} is full: capacity.records={self._settings.capacity_records} "
            f"capacity.bytes={self._settings.capacity_bytes}; consume and purge, or raise the capacity"
        )

    def _write_done(self, result: object) -> None:
        assert self._writing is not None
        assert self._log is not None
        plan, appends = self._writing
        self._writing = None
        if isinstance(result, DduomqError):
            self._write_failed(self._log, plan, appends, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            self._written(self._log, plan, appends)

    def _write_failed(self, log: PartitionLog, plan: WritePlan, appends: list[Append], error: DduomqError) -> None:
        log.abandon(plan)
        for append in appends:
            append.refuse(error)
        if isinstance(error, StorageError):
            self._go_offline(error)
        else:
            self._logger.warning("append_refused", reason=error.message, batches=len(appends))

    def _written(self, log: PartitionLog, plan: WritePlan, appends: list[Append]) -> None:
        log.written(plan, self._world.clock.wall_ms())
        self.appended_batches += len(appends)
        self.appended_bytes += plan.size
        self._settle(log, plan, appends)
        self._mark_dirty()
        if self._settings.durability is Durability.FSYNC:
            self._flush(log)
        else:
            self._stored(log)
            if plan.rolled:
                self._flush(log)
        if self._replica is not None:
            self._wrote()
        if self._settings.is_bounded and self._settings.capacity_policy is CapacityPolicy.DROP_OLDEST:
            self._remove(log.plan_retention(self._world.clock.wall_ms()), None)

    def _settle(self, log: PartitionLog, plan: WritePlan, appends: list[Append]) -> None:
        """Answer what was refused; park the others until their bytes are as durable as promised."""
        for append, outcome in zip(appends, plan.outcomes, strict=True):
            if isinstance(outcome, DduomqError):
                append.refuse(outcome)
            elif outcome.last_offset < log.high_watermark:
                self._ack(log, append, outcome)
            elif self._replica is not None and append.acks == LEADER_ONLY:
                self._park_local(log, append, outcome)
            else:
                self._unacked.append((outcome.last_offset, append, outcome))

    def _ack(self, log: PartitionLog, append: Append, outcome: Appended) -> None:
        assert append.reply is not None
        append.reply.set(
            Acked(
                outcome.base_offset,
                outcome.append_time_ms,
                log.log_start_offset,
                self._settings.durability,
            )
        )

    def _stored(self, log: PartitionLog) -> None:
        """What is as durable here as the topic promises has moved on; of several replicas, this is but one."""
        if self._replica is not None:
            self._safe(log)
        else:
            is_synced = self._settings.durability is Durability.FSYNC
            self._advance(log, log.flushed_offset if is_synced else log.log_end_offset)

    def _advance(self, log: PartitionLog, offset: int) -> None:
        """Move the high watermark: answer appends below it, wake who waits for records."""
        if offset <= log.high_watermark:
            return
        log.advance_high_watermark(offset)
        unacked = self._unacked
        while unacked and unacked[0][0] < offset:
            _, append, outcome = unacked.popleft()
            self._ack(log, append, outcome)
        self._wake_watchers()

    def _wake_watchers(self) -> None:
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            watcher.wake()

    # --- flushing -----------------------------------------------------------------------------------

    def _flush(self, log: PartitionLog) -> None:
        if self._flushing:
            return
        flush = log.plan_flush()
        if flush is None:
            return
        self._flushing = True
        end_offset = flush.end_offset
        self._submit(flush.job(self._files), lambda result: self._flush_done(end_offset, result))

    def _flush_done(self, end_offset: int, result: object) -> None:
        self._flushing = False
        log = self._log
        if log is None:
            return
        if isinstance(result, DduomqError):
            error = result if isinstance(result, StorageError) else StorageError(result.message)
            self._go_offline(error)
            return
        if isinstance(result, BaseException):
            raise result
        log.flushed(end_offset)
        if self._settings.durability is Durability.FSYNC:
            self._stored(log)
            self._flush(log)

    def _on_flush(self, _message: Flush) -> None:
        if self._log is not None and self._offline is None:
            self._flush(self._log)

    def _go_offline(self, error: StorageError) -> None:
        """The disk can't be believed any more: refuse everything until an operator restores the log."""
        self._log = None
        self._offline = StorageError(
            f"{self.mailbox.name} is offline after a disk failure ({error.message}); mend the disk, then "
            f"'dduomq topic restore {self._spec.topic} {self._spec.partition}'"
        )
        self._logger.error("log_offline", reason=error.message)
        self._fail_parked(self._offline)
        if self._replica is not None:
            self._step_down(self._offline)
            self._take_role()

    def _fail_parked(self, error: DduomqError) -> None:
        unacked, self._unacked = self._unacked, deque()
        for _, append, _outcome in unacked:
            append.refuse(error)
        waits, self._append_waits = self._append_waits, []
        for append in waits:
            append.refuse(error)
        if self._writing is not None:
            for append in self._writing[1]:
                append.refuse(error)
        parked, self._parked = self._parked, []
        for message in parked:
            message.refuse(error)
        self._wake_watchers()

    def _on_restore(self, message: Restore) -> None:
        assert message.reply is not None
        if self._offline is None:
            message.reply.set(None)
            return
        self._disk.when_idle(lambda: self._open(restore=True, reply=message.reply))

    # --- reading ------------------------------------------------------------------------------------

    def _on_fetch(self, message: Fetch) -> None:
        log = self._ready(message)
        if log is None:
            return
        self._check_epoch(message.leader_epoch)
        self.fetches += 1
        if message.last_fetched_epoch >= 0 and self._diverges(log, message):
            return
        upper = log.last_stable_offset if message.isolation == READ_COMMITTED else log.high_watermark
        committed = message.isolation == READ_COMMITTED
        plan = log.read_plan(message.offset, message.max_bytes, min(upper, log.high_watermark), committed=committed)
        if plan is None:
            self._park_fetch(log, message)
        elif isinstance(plan, ReadPlan):
            self._answer_fetch(log, message, plan)
        else:
            self._seek(plan, message)

    def _diverges(self, log: PartitionLog, message: Fetch) -> bool:
        """Answer a reader whose last batch is not in this log where the two part (KIP-595)."""
        end = log.epochs.end_offset_of(message.last_fetched_epoch, log.log_end_offset)
        if end[0] < 0 or (end[0] == message.last_fetched_epoch and end[1] >= message.offset):
            return False
        assert message.reply is not None
        message.reply.set(self._nothing(log, diverging=end))
        return True

    def _check_epoch(self, epoch: int) -> None:
        if epoch == -1 or epoch == self._spec.leader_epoch:
            return
        if epoch < self._spec.leader_epoch:
            raise FencedLeaderEpoch(f"leader epoch {epoch} has ended, {self._spec.leader_epoch} is current")
        raise UnknownLeaderEpoch(f"leader epoch {epoch} is not known here yet")

    def _watch(self, message: Fetch, watcher: Watcher) -> None:
        """Wake it when there is more to read: for a follower that is when more is written."""
        is_follower = self._replica is not None and isinstance(message, ReplicaFetch)
        watchers = self._replica.watchers if self._replica is not None and is_follower else self._watchers
        if is_follower:  # the replicas are few; and it may wait already, when it is looked at again
            watchers[:] = [held for held in watchers if held is not watcher and not held.gone]
        if len(watchers) >= WATCHERS_MAX:
            watchers[:] = [held for held in watchers if not held.gone]
            if len(watchers) >= WATCHERS_MAX:
                raise Overloaded(f"{self.mailbox.name} has {WATCHERS_MAX} fetches waiting")
        watchers.append(watcher)

    def _park_fetch(self, log: PartitionLog, message: Fetch) -> None:
        if message.watcher is not None:
            self._watch(message, message.watcher)
        assert message.reply is not None
        message.reply.set(self._nothing(log))

    def _nothing(self, log: PartitionLog, diverging: tuple[int, int] | None = None) -> FetchPlan:
        """The answer to a fetch that finds no batch."""
        return FetchPlan(
            None, 0, 0, log.high_watermark, log.last_stable_offset, log.log_start_offset, diverging=diverging,
            log_end_offset=log.log_end_offset, is_mark_known=self._is_mark_known(log),
        )  # fmt: skip

    def _seek(self, seek: Seek, message: Fetch, *, can_wait: bool = False) -> None:
        """At once, when all that must be read is in the page cache: that costs less than the hop to a thread."""
        seek = self._places.nearer(seek)
        files = self._files.calm() if can_wait else self._files
        hot = None if can_wait else self._files.hot(INLINE_SEEK_BYTES_MAX)
        if hot is not None:
            with suppress(NotResident):
                try:
                    self._sought(message, seek.run(hot), is_resident=True)
                except DduomqError as error:
                    message.refuse(error)
                return
        self._submit(lambda: seek.run(files), lambda result: self._sought(message, result), message)

    def _sought(self, message: Fetch, result: object, *, is_resident: bool = False) -> None:
        log = self._log
        if isinstance(result, DduomqError):
            message.refuse(result)
        elif isinstance(result, BaseException):
            raise result
        elif log is None:
            message.refuse(self._offline or LeaderNotAvailable())
        elif isinstance(result, ReadPlan):
            self._places.note(result)
            self._answer_fetch(log, message, result, is_resident=is_resident)
        else:
            self._park_fetch(log, message)

    def _answer_fetch(
        self, log: PartitionLog, message: Fetch, plan: ReadPlan, *, is_resident: bool = False
    ) -> None:  # fmt: skip
        assert message.reply is not None
        if message.watcher is not None and plan.size < message.min_bytes:
            self._watch(message, message.watcher)
        try:
            lease = self._files.lease(plan.path)
        except FileNotFoundError:  # retention took the segment between the seek and now
            message.refuse(LeaderNotAvailable("the segment has just been removed; fetch again"))
            return
        message.reply.set(
            FetchPlan(
                lease, plan.position, plan.size, log.high_watermark, log.last_stable_offset, log.log_start_offset,
                plan.aborted, is_resident=is_resident, next_offset=plan.next_offset, log_end_offset=log.log_end_offset,
                is_mark_known=self._is_mark_known(log), is_current=self._term_of(message),
            )
        )  # fmt: skip

    def _on_find_offset(self, message: FindOffset) -> None:
        log = self._ready(message)
        if log is None:
            return
        self._check_epoch(message.leader_epoch)
        assert message.reply is not None
        upper = log.last_stable_offset if message.isolation == READ_COMMITTED else log.high_watermark
        epoch = self._spec.leader_epoch
        if message.timestamp_ms == EARLIEST:
            message.reply.set(OffsetAt(-1, log.log_start_offset, epoch))
        elif message.timestamp_ms == LATEST:
            self._check_known()
            message.reply.set(OffsetAt(-1, upper, epoch))
        else:
            time_ms = log.max_timestamp()[0] if message.timestamp_ms == MAX_TIMESTAMP else message.timestamp_ms
            if time_ms < 0:
                self._check_known()
                message.reply.set(OffsetAt(-1, -1, epoch))
                return
            seek = log.seek_time(time_ms)
            self._submit(
                lambda: seek.run(self._files),
                lambda result: self._found_time(message, upper, result),
                message,
            )

    def _found_time(self, message: FindOffset, upper: int, result: object) -> None:
        if isinstance(result, DduomqError):
            message.refuse(result)
            return
        if isinstance(result, BaseException):
            raise result
        assert message.reply is not None
        timestamp, offset = result if isinstance(result, tuple) else (-1, -1)
        if offset < 0 or offset >= upper:
            self._check_known()  # what older leaders have acked may lie there, and is not to be passed over
            timestamp, offset = -1, -1
        message.reply.set(OffsetAt(timestamp, offset, self._spec.leader_epoch))

    def _on_end_of_epoch(self, message: EndOfEpoch) -> None:
        log = self._ready(message)
        if log is not None:
            self._check_epoch(message.leader_epoch)
            assert message.reply is not None
            is_to_come = message.epoch > self._spec.leader_epoch
            end = (-1, -1) if is_to_come else log.epochs.end_offset_of(message.epoch, log.log_end_offset)
            message.reply.set(EpochEnd(*end))

    def _on_list_producers(self, message: ListProducers) -> None:
        log = self._ready(message)
        if log is not None:
            assert message.reply is not None
            message.reply.set(tuple(ActiveProducer(pid, state) for pid, state in log.producers.states.items()))

    # --- housekeeping -------------------------------------------------------------------------------

    def _mark_dirty(self) -> None:
        """Tell the janitor once per checkpoint that there is something to write down."""
        if not self._is_dirty and self._settings.storage is Storage.DISK:
            flush_ms = self._settings.flush_ms if self._settings.durability is Durability.FLUSHED else None
            self._is_dirty = self._world.janitor.offer(Dirty(partition=self.mailbox, flush_ms=flush_ms))

    def _on_checkpoint(self, _message: Checkpoint) -> None:
        log = self._log
        self._is_dirty = False
        checkpoint = None if log is None else log.plan_checkpoint()
        if checkpoint is not None:
            self._chore(lambda: checkpoint.run(self._files), self._checkpointed)

    def _checkpointed(self, result: object) -> None:
        if isinstance(result, DduomqError):  # nothing is lost: recovery starts further back
            self._logger.warning("checkpoint_failed", reason=result.message)
        elif isinstance(result, BaseException):
            raise result

    def _on_retain(self, _message: Retain) -> None:
        if self._log is not None and self._writing is None:
            self._remove(self._log.plan_retention(self._world.clock.wall_ms()), None)

    def _on_purge(self, message: Purge) -> None:
        log = self._ready(message)
        if log is not None:
            offset = log.high_watermark if message.offset == -1 else message.offset
            self._remove(log.delete_records(offset), message)

    def _remove(self, removal: Any, message: Purge | None, then: Callable[[], None] = lambda: None) -> None:
        log = self._log
        assert log is not None

        def done(result: object) -> None:
            if isinstance(result, DduomqError):
                self._logger.warning("removal_failed", reason=result.message)
                if message is not None:
                    message.refuse(result)
            elif isinstance(result, BaseException):
                raise result
            elif message is not None:
                self._purged(message, log.log_start_offset if removal is None else removal.log_start_offset)
            then()

        if removal is None:
            done(None)
            return
        self._chore(lambda: removal.run(self._files), done, message)

    def _on_configure(self, message: Configure) -> None:
        self._settings = message.settings
        if self._log is not None:
            self._log.settings = message.settings
            if message.settings.durability is not Durability.FSYNC:
                self._stored(self._log)

    def _on_describe(self, message: Describe) -> None:
        assert message.reply is not None
        state = "offline" if self._offline else "closing" if self._closing else "online" if self._log else "opening"
        description = None if self._log is None else self._log.describe()
        reason = None if self._offline is None else self._offline.message
        is_idle = not (self._append_waits or self._writing or self._unacked) and self._is_settled()
        replicas = self._replica_state()
        message.reply.set(PartitionState(state, self._spec.leader_epoch, description, reason, is_idle, replicas))

    # --- replicas -----------------------------------------------------------------------------------

    def _on_assign(self, message: Assign) -> None:
        self._assigned(message)

    def _on_replica_fetch(self, message: ReplicaFetch) -> None:
        log = self._ready(message)
        if log is not None:
            self._replica_fetch(log, message)

    def _on_replicate(self, message: Replicate) -> None:
        self._replicate(message)

    def _on_record_written(self, message: RecordWritten) -> None:
        self._record_written(message)

    def _on_check_replicas(self, _message: CheckReplicas) -> None:
        self._check_replicas()

    # --- closing ------------------------------------------------------------------------------------

    def _on_close(self, message: Close) -> None:
        if self._closing is not None:
            raise NodeStopping
        self._closing = message
        if self._replica is not None:
            self._leave(self._replica)
        if message.delete:
            self._fail_parked(UnknownTopicOrPartition(f"topic {self._spec.topic} has been deleted"))

    def _maybe_close(self) -> None:
        """End once nothing is in flight; until then each completion comes back here."""
        if self._disk.in_flight:
            return
        if self._unacked and self._log is not None:
            self._flush(self._log)
            if self._flushing:
                return
        closing, log = self._closing, self._log
        assert closing is not None
        self._log = None
        self._fail_parked(NodeStopping())
        if self._replica is not None:
            self._step_down(NodeStopping())
        self.stop()
        if log is None or closing.delete:
            self._finish_close(closing, None)
            return
        close = log.plan_close()
        self._disk.submit(lambda: close.run(self._files), lambda result: self._finish_close(closing, result))

    def _finish_close(self, closing: Close, result: object) -> None:
        if closing.reply is not None and not closing.reply.done:
            if isinstance(result, BaseException):
                closing.reply.fail(result)
            else:
                closing.reply.set(None)

    def on_crash(self, error: BaseException) -> None:
        self._fail_parked(LeaderNotAvailable(f"{self.mailbox.name} starts again"))
        if self._replica is not None:
            self._step_down(LeaderNotAvailable(f"{self.mailbox.name} starts again"))
        for _, _, request in list(self._chores)[1:]:  # the first one is in flight: its completion answers
            if request is not None:
                request.refuse(LeaderNotAvailable(f"{self.mailbox.name} starts again"))
        if self._closing is not None and not (self._closing.reply and self._closing.reply.done):
            self.mailbox.post(self._closing)  # the next one closes what this one could not

    async def quiesce(self) -> None:
        await self._disk.idle()

    # --- disk ---------------------------------------------------------------------------------------

    def _submit(self, run: Job, then: Callable[[Any], None], request: Message | None = None) -> None:
        """Run a job in a disk thread; its result comes back as a message to this incarnation.

        `request` is answered with a retriable error if this incarnation ends before.
        """

        def done(result: object) -> None:
            completed = Completed(
                owner=self, then=then, result=result, reply=None if request is None else request.reply
            )
            self.mailbox.post(completed)

        self._disk.submit(run, done)

    def _chore(self, run: Job, then: Callable[[Any], None], request: Message | None = None) -> None:
        """`_submit`, one after another: two chores must not replace the same small file at once."""
        self._chores.append((run, then, request))
        if len(self._chores) == 1:
            self._next_chore()

    def _next_chore(self) -> None:
        run, then, request = self._chores[0]

        def done(result: object) -> None:
            self._chores.popleft()
            if self._chores:
                self._next_chore()
            then(result)

        self._submit(run, done, request)

    def _on_completed(self, message: Completed) -> None:
        if message.owner is self:
            message.then(message.result)
        else:
            message.refuse(LeaderNotAvailable(f"{self.mailbox.name} starts again"))
