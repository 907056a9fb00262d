"""One partition of `__groups`: the only task that knows its groups.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| Join | listeners | JoinResult | nothing | a member comes; answered when the generation is complete |
| Sync | listeners | SyncResult | nothing | a member gets its assignment once that is stored |
| Heartbeat | listeners | None | nothing | the member lives; told if it is out or a rebalance has begun |
| Leave | listeners | tuple of Gone | nothing | members go |
| GroupBeat | listeners | Beaten | nothing | a member joins, lives, moves on or leaves; the broker shares out |
| BeatOfShare | listeners | ShareBeaten | nothing | a member of a share group joins, lives or leaves |
| NextReads | listeners | ReadsFound | nothing | where there are records that a member may get |
| Acquire | listeners | Acquired | nothing | a member gets records of those that were read, once that is stored |
| Settle | listeners | Settled | nothing | a member has done, releases, rejects or keeps records |
| ReleaseHeld | listeners | nothing | nothing | what a member has of some partitions goes to others |
| FitQueue | listeners | nothing | nothing | what the log has no more is done, or will be fresh |
| LoseRecord | listeners | nothing | nothing | what can't be read is dead |
| DescribeQueues | listeners | tuple of QueueState | nothing | a picture of a group's queues |
| MoveQueues | listeners | None | nothing | queues begin elsewhere, or are forgotten |
| ConfigureQueues | listeners | ShareRecord | nothing | settings of a group's queues |
| RemoveMember | listeners | None | nothing | a member is put out |
| Commit | listeners | refused places | nothing | offsets are stored, then answered |
| FetchOffsets | listeners | places and offsets | nothing | what is stored |
| SetAside | listeners | BeenSetAside | nothing | records are done with here; their copies follow elsewhere |
| FetchAside | listeners | places and ranges | nothing | which records are set aside |
| DeleteOffsets | listeners | places that may not go | nothing | offsets are forgotten |
| ListGroups | listeners | tuple of GroupOverview | nothing | a picture of all |
| DescribeGroup | listeners | GroupDescription | nothing | a picture of one |
| DeleteGroup | listeners | None | nothing | an empty group and its offsets are forgotten |
| Resign | groups | nothing | nothing | another node coordinates these groups now; whoever waits is told |
| Alarm | alarms | nothing | nothing | time-outs |
| Begun | partition | nothing | nothing | where the log begins is known |
| Fetched | partition | nothing | nothing | a piece of the log is to be read at the start |
| Loaded | disk | nothing | nothing | a piece of the log has been read |
| Stored | partition | nothing | nothing | a batch of records is in the log, or could not be |
| PieceFound | partition | nothing | nothing | where a record lies that is to be copied is known |
| PieceRead | disk | nothing | nothing | it has been read |
| HandedOver | wheel | nothing | nothing | a wheel has copies, or could not take them |

Always true: requests make records, records make state: an offset is shown, and an assignment given out, only after
its record is as durable as the topic `__groups` promises; whoever replays the log has the same state. The log does
not grow without bound: when it has, the state is written anew and what was before it is deleted.
"""

from collections.abc import Mapping
from typing import ClassVar

from dduomq.actors.actor import Actor, Mailbox, Message, Resign
from dduomq.actors.alarms import Alarm
from dduomq.actors.coordinator_aside import SettingAside
from dduomq.actors.coordinator_classic import ClassicMembers
from dduomq.actors.coordinator_consumer import ConsumerMembers
from dduomq.actors.coordinator_handover import Handover
from dduomq.actors.coordinator_log import CoordinatorLog
from dduomq.actors.coordinator_messages import (
    Commit,
    DeleteGroup,
    DeleteOffsets,
    DescribeGroup,
    FetchAside,
    FetchOffsets,
    GroupBeat,
    HandedOver,
    Heartbeat,
    Join,
    Leave,
    ListGroups,
    RemoveMember,
    SetAside,
    Sync,
)
from dduomq.actors.coordinator_offsets import Offsets
from dduomq.actors.coordinator_queue import Queues
from dduomq.actors.coordinator_queue_messages import (
    Acquire,
    BeatOfShare,
    ConfigureQueues,
    DescribeQueues,
    FitQueue,
    LoseRecord,
    MoveQueues,
    NextReads,
    ReleaseHeld,
    Settle,
)
from dduomq.actors.coordinator_share import ShareMembers
from dduomq.actors.coordinator_table import CoordinatorWorld, Group, GroupTable, Parked
from dduomq.actors.coordinator_upgraded import UpgradedMembers
from dduomq.actors.journal import Begun, Fetched, JournalWorld, Loaded, Stored
from dduomq.actors.partition_messages import Acked
from dduomq.actors.record_reader import PieceFound, PieceRead
from dduomq.errors import (
    CoordinatorLoading,
    CoordinatorNotAvailable,
    DduomqError,
    GroupNotEmpty,
)
from dduomq.groups import records
from dduomq.groups.classic import ClassicGroup
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.member import NEVER
from dduomq.groups.records import (
    AsideKey,
    ConsumersKey,
    GroupKey,
    HandedKey,
    Key,
    MarksKey,
    MemberKey,
    OffsetKey,
    QueueKey,
    ShareKey,
)
from dduomq.limits import DESCRIBE_WAIT_MS_MAX, OFFSET_RETENTION_MS

EXPIRY_INTERVAL_S = 600


class CoordinatorActor(Actor):
    """Answers for the groups of one partition of `__groups`."""

    __slots__ = (
        "_alarm_at", "_aside", "_classic", "_consumer", "_expire_at", "_failure", "_handover", "_log", "_offsets",
        "_queues", "_share", "_table", "_world",
    )  # fmt: skip
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        Join: "_on_join",
        Sync: "_on_sync",
        Heartbeat: "_on_heartbeat",
        Leave: "_on_leave",
        GroupBeat: "_on_group_beat",
        BeatOfShare: "_on_beat_of_share",
        NextReads: "_on_queue",
        Acquire: "_on_queue",
        Settle: "_on_queue",
        ReleaseHeld: "_on_queue",
        FitQueue: "_on_queue",
        LoseRecord: "_on_queue",
        DescribeQueues: "_on_queue",
        MoveQueues: "_on_queue",
        ConfigureQueues: "_on_queue",
        RemoveMember: "_on_remove_member",
        Commit: "_on_commit",
        FetchOffsets: "_on_fetch_offsets",
        SetAside: "_on_set_aside",
        FetchAside: "_on_fetch_aside",
        DeleteOffsets: "_on_delete_offsets",
        ListGroups: "_on_list_groups",
        DescribeGroup: "_on_describe_group",
        DeleteGroup: "_on_delete_group",
        Resign: "_on_resign",
        Alarm: "_on_alarm",
        Begun: "_on_begun",
        Fetched: "_on_fetched",
        Loaded: "_on_loaded",
        Stored: "_on_stored",
        PieceFound: "_on_piece_found",
        PieceRead: "_on_piece_read",
        HandedOver: "_on_handed_over",
    }

    def __init__(self, mailbox: Mailbox, number: int, partition: Mailbox, world: CoordinatorWorld) -> None:
        super().__init__(mailbox)
        self._world = world
        self._log = CoordinatorLog(
            mailbox, JournalWorld(partition, world.disk, world.clock, world.log, CoordinatorNotAvailable), self._apply,
            lambda: [*(group.everything() for group in self._table.groups.values()), self._aside.everything()],
        )  # fmt: skip
        self._table = GroupTable(mailbox.name, self._log, world)
        self._handover = Handover(mailbox, number, self._table, self._on_failure)
        self._aside = SettingAside(self._table, self._handover, self._on_failure)
        self._consumer = ConsumerMembers(self._table, self._on_failure)
        self._offsets = Offsets(self._table, self._consumer)
        upgraded = UpgradedMembers(self._table, lambda group, then: self._consumer.settle(group, [], then))
        self._classic = ClassicMembers(self._table, upgraded, self._on_failure)
        self._queues = Queues(self._table, self._aside, self._on_failure)
        self._share = ShareMembers(self._table, self._queues, self._on_failure)
        self._failure: DduomqError | None = None  # why the state has to be read anew
        self._expire_at = world.clock.monotonic() + EXPIRY_INTERVAL_S
        self._alarm_at = NEVER

    # --- the start ----------------------------------------------------------------------------------

    def on_start(self) -> None:
        self._log.begin()
        self._set_alarm()

    def _on_begun(self, message: Begun) -> None:
        self._log.begun(message)

    def _on_fetched(self, message: Fetched) -> None:
        self._log.fetched(message)
        if self._log.is_loaded:
            self._share.loaded()
            self._world.log.info("groups_loaded", coordinator=self.mailbox.name, groups=len(self._table.groups))

    def _on_loaded(self, message: Loaded) -> None:
        self._log.loaded(message)

    def _on_stored(self, message: Stored) -> None:
        self._log.stored(message)

    def _on_piece_found(self, message: PieceFound) -> None:
        self._handover.reader.found(message)

    def _on_piece_read(self, message: PieceRead) -> None:
        self._handover.reader.read_done(message)

    def _on_handed_over(self, message: HandedOver) -> None:
        self._handover.handed_over(message)

    def _apply(self, key: Key, value: bytes | None) -> None:
        """What a record says is so."""
        table, now = self._table, self._table.now()
        if isinstance(key, AsideKey | MarksKey | HandedKey):
            self._aside.apply(key, value)
        elif isinstance(key, OffsetKey):
            if value is not None:
                table.get_or_make(key.group).committed(key.place, records.decode_offset(value))
            elif key.group in table.groups:
                table.groups[key.group].offsets.pop(key.place, None)
        elif isinstance(key, GroupKey):
            if value is None:
                table.groups.pop(key.group, None)
                return
            record, group = records.decode_group(value), table.get_or_make(key.group)
            group.classic, group.consumer, group.share = ClassicGroup(key.group), None, None
            group.classic.restore(record, now)
            group.record, group.stored, group.changed_ms = record, record.generation, record.changed_ms
            table.schedule(group)
        elif value is not None or key.group in table.groups:
            self._apply_of_broker(key, value)

    def _apply_of_broker(self, key: ConsumersKey | MemberKey | ShareKey | QueueKey, value: bytes | None) -> None:
        if isinstance(key, ShareKey):
            self._share.apply(key, value)
        elif isinstance(key, QueueKey):
            self._queues.apply(key, value)
        else:
            self._apply_consumer(key, value)

    def _apply_consumer(self, key: ConsumersKey | MemberKey, value: bytes | None) -> None:
        table = self._table
        group = table.get_or_make(key.group)
        if group.consumer is None:
            group.share_out_by(ConsumerGroup(key.group, self._world.assignors))
        assert group.consumer is not None
        group.consumer.apply(key, value, table.now())
        if isinstance(key, ConsumersKey) and value is not None:
            group.changed_ms = records.decode_consumers(value).changed_ms
        table.schedule(group)

    def _on_failure(self, error: DduomqError) -> None:
        self._failure = error

    def _read_anew(self) -> None:
        """Some state could not be stored: what the log holds is what is so."""
        ended = CoordinatorNotAvailable(f"{self.mailbox.name} reads its log anew")
        self._refuse_all(ended)
        self._table.clear()
        self._handover.reader.reset(ended)
        self._aside.reset()
        self._log.restart(ended)
        self._failure = None

    # --- members ------------------------------------------------------------------------------------

    def _on_join(self, message: Join) -> None:
        self._classic.join(message)

    def _on_sync(self, message: Sync) -> None:
        self._classic.sync(message)

    def _on_heartbeat(self, message: Heartbeat) -> None:
        self._classic.heartbeat(message)

    def _on_leave(self, message: Leave) -> None:
        self._classic.leave(message)

    def _on_group_beat(self, message: GroupBeat) -> None:
        self._consumer.beat(message)

    def _on_beat_of_share(self, message: BeatOfShare) -> None:
        self._share.beat(message)

    def _on_remove_member(self, message: RemoveMember) -> None:
        reply = message.reply
        assert reply is not None
        group = self._table.of_member(message.group)
        if group.share is not None:
            self._share.remove(group, message.member_id)
        elif group.consumer is None:
            group.classic.leave(message.member_id, None, self._table.now())
        else:
            group.consumer.remove(message.member_id)
        reply.set(None)
        self._changed(group)

    def _changed(self, group: Group) -> None:
        if group.share is not None:
            self._share.settle(group, [])
        elif group.consumer is None:
            self._classic.changed(group)
        else:
            self._consumer.settle(group, [])

    # --- queues -------------------------------------------------------------------------------------

    def _on_queue(self, message: Message) -> None:
        self._queues.handle(message)

    # --- offsets, and what stands aside -------------------------------------------------------------

    def _on_commit(self, message: Commit) -> None:
        self._offsets.commit(message)

    def _on_fetch_offsets(self, message: FetchOffsets) -> None:
        self._offsets.fetch(message)

    def _on_delete_offsets(self, message: DeleteOffsets) -> None:
        self._offsets.delete(message)

    def _on_set_aside(self, message: SetAside) -> None:
        self._aside.set_aside(message)

    def _on_fetch_aside(self, message: FetchAside) -> None:
        self._aside.fetch(message)

    # --- looking and deleting -----------------------------------------------------------------------

    def _on_list_groups(self, message: ListGroups) -> None:
        assert message.reply is not None
        if not self._log.is_loaded:
            raise CoordinatorLoading
        message.reply.set(tuple(group.overview() for group in self._table.groups.values()))

    def _on_describe_group(self, message: DescribeGroup) -> None:
        reply = message.reply
        assert reply is not None
        group = self._table.ready(message.group)
        if message.wait_ms > 0 and message.since == group.version:
            deadline = self._table.now() + min(message.wait_ms, DESCRIBE_WAIT_MS_MAX) / 1000
            group.watching.append(Parked(reply, deadline, group.version))
            self._table.schedule(group)
        else:
            reply.set(group.description())

    def _on_delete_group(self, message: DeleteGroup) -> None:
        reply = message.reply
        assert reply is not None
        group = self._table.ready(message.group)
        if group.member_count:
            raise GroupNotEmpty(f"group {message.group!r} has {group.member_count} members; stop them first")

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                reply.set(None)
            else:
                self._on_failure(result)
                reply.fail(result)

        self._log.store(group.tombstones(), stored)
        self._table.forget(group)

    # --- time ---------------------------------------------------------------------------------------

    def _on_alarm(self, _message: Alarm) -> None:
        now = self._table.now()
        if now >= self._alarm_at:
            self._alarm_at = NEVER
        if now >= self._log.retry_at:
            self._log.begin()
        for group in self._table.take_due(now):
            group.tell_watchers(now)
            self._queues.tick(group, now)
            if group.share is not None:
                self._share.tick(group, now)
            elif group.consumer is None:
                group.classic.tick(now)
                self._classic.changed(group)
            else:
                self._consumer.tick(group, now)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRY_INTERVAL_S
            self._expire()

    def _expire(self) -> None:
        """Forget groups that nobody has used for long, and offsets of topics that are no more."""
        if not self._log.is_loaded:
            return
        self._aside.forget_deleted(self._noted)
        oldest = self._table.wall_ms() - OFFSET_RETENTION_MS
        for group in list(self._table.groups.values()):
            gone = [place for place in group.queues if self._world.routes.name_of(place[0]) is None]
            if gone:  # also of a group that always has members
                self._queues.forget(group, gone)
            if group.member_count or group.on_their_way:
                continue
            newest = max((held.commit_ms for held in group.offsets.values()), default=group.changed_ms)
            if max(newest, group.changed_ms) < oldest and not _has_open(group):
                self._log.store(group.tombstones(), self._noted)
                self._table.forget(group)
                continue
            lost = [place for place in group.offsets if self._world.routes.name_of(place[0]) is None]
            if lost:
                self._offsets.forget(group, lost)

    def _noted(self, result: Acked | DduomqError) -> None:
        """What has gone from the state at once must go from the log, too."""
        if isinstance(result, DduomqError):
            self._on_failure(result)

    def _set_alarm(self) -> None:
        at = min(self._table.first_due(), self._expire_at, self._log.retry_at, self._handover.next_at())
        if at < self._alarm_at:
            self._alarm_at = at
            self._world.alarms.wake(self.mailbox, at)

    # --- storing ------------------------------------------------------------------------------------

    def after_drain(self) -> None:
        if self._failure is not None:
            self._read_anew()
        self._handover.go()
        self._log.flush()
        self._set_alarm()

    # --- the end ------------------------------------------------------------------------------------

    def _on_resign(self, message: Resign) -> None:
        self.resign(message)

    def on_crash(self, error: BaseException) -> None:
        ended = CoordinatorNotAvailable(f"{self.mailbox.name} starts again")
        self._refuse_all(ended)
        self._log.close(ended)

    def _refuse_all(self, error: DduomqError) -> None:
        """Whoever waits for a group is told."""
        for group in self._table.groups.values():
            group.classic.close(error)
            group.wake()
            for waiting in [*group.parked.values(), *group.watching]:
                if not waiting.reply.done:
                    waiting.reply.fail(error)

    async def quiesce(self) -> None:
        await self._log.quiesce()
        await self._handover.reader.quiesce()


def _has_open(group: Group) -> bool:
    """Whether records of its queues are to be given out again: some may wait for longer than groups are kept."""
    return any(queue.in_flight for queue in group.queues.values())
