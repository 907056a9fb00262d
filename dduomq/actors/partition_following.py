"""A follower's part of a partition: it stores what its leader sends, and cuts its log where the two have parted.

Part of `PartitionActor`, which owns all state. Always true: one answer of the leader is in hand at a time; the leader
hears of it when all that it brought is as durable here as the topic promises; a log is cut by one disk job, while
nothing else touches its files.
"""

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Message
from dduomq.actors.disk import DiskClient
from dduomq.actors.partition_messages import Append, Fetch, FetchPlan, Purge, Watcher
from dduomq.actors.partition_world import PartitionSpec, PartitionWorld
from dduomq.actors.replica_messages import FollowerAt, Replicate
from dduomq.cluster.image import PartitionRecord
from dduomq.errors import CorruptMessage, DduomqError, FencedLeaderEpoch, LeaderNotAvailable, StorageError
from dduomq.log.places import Places
from dduomq.log.plans import PendingBatch, ReadPlan, Seek, WritePlan
from dduomq.log.plog import Appended, PartitionLog
from dduomq.log.replica_log import ReplicaLog, open_replica
from dduomq.log.settings import Durability, TopicSettings
from dduomq.log.truncate import reset_log, truncate_log
from dduomq.ports import Job
from dduomq.replica.follower import Answer, Own, Reset, Truncate, decide
from dduomq.replica.leader import Leadership
from dduomq.wire.batch import check_batches


@attrs.define(slots=True)
class Replica:
    """`must_renew`: this life has found the record as it is, and may have led in its epoch before; `may_have_lost`: and
    what was acked then may be gone.

    `local`: appends that wait for this node only. `in_hand`: what the leader sent and is not safe yet; `batches`: of
    that, what is not written yet. `purges`: those of a leader that its followers have not made yet; `is_trimming`: such
    a one is being made here.
    """

    record: PartitionRecord
    version: int
    must_renew: bool = False
    may_have_lost: bool = False
    leadership: Leadership | None = None
    is_following: bool = False
    serial: int = 0
    watchers: list[Watcher] = attrs.field(factory=list)
    local: deque[tuple[int, Append, Appended]] = attrs.field(factory=deque)
    in_hand: Replicate | None = None
    batches: list[PendingBatch] = attrs.field(factory=list)
    purges: list[tuple[int, Purge]] = attrs.field(factory=list)
    is_trimming: bool = False


class FollowerPart:
    """What a `PartitionActor` does while another node leads. The declarations are of what the actor has."""

    if not TYPE_CHECKING:
        __slots__ = ()
    else:
        mailbox: Mailbox
        appended_batches: int
        appended_bytes: int
        _append_waits: list[Append]
        _closing: Any
        _disk: DiskClient
        _files: Any
        _log: PartitionLog | None
        _logger: structlog.stdlib.BoundLogger
        _offline: StorageError | None
        _places: Places
        _replica: Replica | None
        _settings: TopicSettings
        _spec: PartitionSpec
        _unacked: deque[tuple[int, Append, Appended]]
        _world: PartitionWorld
        _writing: tuple[WritePlan, list[Append]] | None

        def _ack(self, log: PartitionLog, append: Append, outcome: Appended) -> None: ...
        def _advance(self, log: PartitionLog, offset: int) -> None: ...
        def _answer_fetch(self, log: PartitionLog, message: Fetch, plan: ReadPlan) -> None: ...
        def _check_epoch(self, epoch: int) -> None: ...
        def _diverges(self, log: PartitionLog, message: Fetch) -> bool:
            raise NotImplementedError

        def _flush(self, log: PartitionLog) -> None: ...
        def _go_offline(self, error: StorageError) -> None: ...
        def _is_inline(self, plan: WritePlan) -> bool:
            raise NotImplementedError

        def _mark_dirty(self) -> None: ...
        def _opened(self, result: object, reply: None) -> None: ...
        def _park_fetch(self, log: PartitionLog, message: Fetch) -> None: ...

        def _nothing(self, log: PartitionLog) -> FetchPlan:
            raise NotImplementedError

        def _remove(self, removal: Any, message: None, then: Callable[[], None] = ...) -> None: ...
        def _seek(self, seek: Seek, message: Fetch, *, can_wait: bool = False) -> None: ...
        def _submit(self, run: Job, then: Callable[[Any], None], request: Message | None = None) -> None: ...
        def _wake_watchers(self) -> None: ...
        def _take_role(self) -> None: ...

    def _safe_end(self, log: PartitionLog) -> int:
        """All before it is as durable here as the topic promises."""
        return log.flushed_offset if self._settings.durability is Durability.FSYNC else log.log_end_offset

    def _drop_in_hand(self, replica: Replica, error: DduomqError) -> None:
        replica.batches = []
        if replica.in_hand is not None:
            replica.in_hand.refuse(error)
            replica.in_hand = None

    # --- following ----------------------------------------------------------------------------------

    def _replicate(self, message: Replicate) -> None:
        replica, log = self._replica, self._log
        is_expected = replica is not None and replica.is_following and replica.in_hand is None
        if replica is None or not is_expected or message.leader_epoch != replica.record.leader_epoch:
            raise FencedLeaderEpoch(f"{self.mailbox.name} does not follow leader epoch {message.leader_epoch}")
        if not isinstance(log, ReplicaLog):
            raise self._offline or LeaderNotAvailable()
        assert message.reply is not None
        if message.offset != log.log_end_offset:
            message.reply.set(FollowerAt(log.log_end_offset, log.last_epoch, log.log_start_offset))
            return
        own = Own(log.log_start_offset, log.log_end_offset, log.epochs, log.damaged_from)
        answer = Answer(message.high_watermark, message.log_start_offset, message.log_end_offset, message.diverging)
        decision = decide(own, answer)
        if isinstance(decision, Truncate | Reset):
            replica.in_hand = message
            self._cut(log, decision)
            return
        batches = [
            PendingBatch(message.data[position : position + header.size], header)
            for position, header in check_batches(message.data)
        ]
        if any(batch.header.leader_epoch > message.leader_epoch for batch in batches):
            raise CorruptMessage(f"a leader of epoch {message.leader_epoch} can have no batch of a later epoch")
        replica.batches, replica.in_hand = batches, message
        if replica.batches and log.log_start_offset == log.log_end_offset > replica.batches[0].header.base_offset:
            self._cut(log, Reset(replica.batches[0].header.base_offset))  # the leader's log begins inside this batch
        else:
            self._write_replicated(replica, log)

    def _write_replicated(self, replica: Replica, log: ReplicaLog) -> None:
        while replica.batches:
            try:
                plan = log.plan_replicate(replica.batches, self._world.clock.wall_ms())
            except DduomqError as error:
                self._logger.error("replica_refused", reason=error.message)
                self._drop_in_hand(replica, error)
                return
            del replica.batches[: len(plan.outcomes)]
            assert replica.in_hand is not None
            if plan.end_offset < replica.in_hand.high_watermark or not self._is_inline(plan):
                self._writing = (plan, [])
                self._submit(lambda plan=plan: plan.run(self._files), self._replicated_aside)  # type: ignore[misc]
                return
            began = self._world.clock.monotonic()
            try:
                plan.run(self._files)
            except DduomqError as error:
                self._not_replicated(replica, log, plan, error)
                return
            self._replicated(log, plan)
            self._world.pace.note(began, self._world.clock.monotonic())
        self._take_marks(replica, log)

    def _replicated_aside(self, result: object) -> None:
        """A write in a disk thread has ended; meanwhile the roles may have changed."""
        replica, log = self._replica, self._log
        assert replica is not None
        assert self._writing is not None
        plan, _ = self._writing
        self._writing = None
        if not isinstance(log, ReplicaLog):
            return
        if isinstance(result, DduomqError):
            self._not_replicated(replica, log, plan, result)
        elif isinstance(result, BaseException):
            raise result
        else:
            self._replicated(log, plan)
            if replica.in_hand is not None:
                self._write_replicated(replica, log)
        self._take_role()

    def _not_replicated(self, replica: Replica, log: ReplicaLog, plan: WritePlan, error: DduomqError) -> None:
        log.abandon(plan)
        self._drop_in_hand(replica, error)
        if isinstance(error, StorageError):
            self._go_offline(error)
        else:
            self._logger.warning("replica_not_written", reason=error.message)

    def _replicated(self, log: ReplicaLog, plan: WritePlan) -> None:
        log.written(plan, self._world.clock.wall_ms())
        self.appended_batches += len(plan.outcomes)
        self.appended_bytes += plan.size
        self._mark_dirty()
        if plan.rolled or self._settings.durability is Durability.FSYNC:
            self._flush(log)

    def _take_marks(self, replica: Replica, log: ReplicaLog) -> None:
        """All that came is written: what the leader says of its log holds here, too."""
        message = replica.in_hand
        assert message is not None
        self._advance(log, message.high_watermark)
        if message.log_start_offset > log.log_start_offset:
            replica.is_trimming = True
            self._remove(
                log.delete_records(min(message.log_start_offset, log.high_watermark)), None,
                lambda: self._trimmed(replica),
            )  # fmt: skip
        self._answer_leader(replica, log)

    def _trimmed(self, replica: Replica) -> None:
        """The new start of the log is on the disk."""
        replica.is_trimming = False
        if self._log is not None:
            self._answer_leader(replica, self._log)

    def _answer_leader(self, replica: Replica, log: PartitionLog) -> None:
        """Go on behind what is safe, once all that came is."""
        message = replica.in_hand
        if message is None or replica.batches or self._writing is not None or not isinstance(log, ReplicaLog):
            return
        if replica.is_trimming:
            return
        if self._safe_end(log) >= log.log_end_offset:
            replica.in_hand = None
            assert message.reply is not None
            message.reply.set(FollowerAt(log.log_end_offset, log.last_epoch, log.log_start_offset))

    def _cut(self, log: ReplicaLog, decision: Truncate | Reset) -> None:
        """Close the log, cut its files, and open it again: one job, when nothing else is under way."""
        spec, settings, files = self._spec, self._settings, self._files
        mark, now_ms = log.high_watermark, self._world.clock.wall_ms()
        self._log = None
        self._logger.warning(
            "log_truncated", to=decision.offset, log_end_offset=log.log_end_offset, high_watermark=mark
        )  # fmt: skip

        def job() -> object:
            if isinstance(decision, Reset):
                reset_log(files, spec.directory, decision.offset)
            else:
                truncate_log(files, spec.directory, decision.offset)
            return open_replica(
                files, spec.directory, settings, leader_epoch=spec.leader_epoch, topic_id=spec.topic_id, clean=False,
                now_ms=now_ms, high_watermark=mark,
            )  # fmt: skip

        self._disk.when_idle(lambda: self._submit(job, lambda result: self._opened(result, None)))
