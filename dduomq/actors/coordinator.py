"""One partition of `__groups`: the only task that knows its groups.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| Join | listeners | JoinResult | nothing | a member comes; answered when the generation is complete |
| Sync | listeners | SyncResult | nothing | a member gets its assignment once that is stored |
| Heartbeat | listeners | None | nothing | the member lives; told if it is out or a rebalance has begun |
| Leave | listeners | tuple of Gone | nothing | members go |
| Commit | listeners | None | nothing | offsets are stored, then answered |
| FetchOffsets | listeners | places and offsets | nothing | what is stored |
| DeleteOffsets | listeners | places that may not go | nothing | offsets are forgotten |
| ListGroups | listeners | tuple of GroupOverview | nothing | a picture of all |
| DescribeGroup | listeners | GroupDescription | nothing | a picture of one |
| DeleteGroup | listeners | None | nothing | an empty group and its offsets are forgotten |
| Alarm | alarms | nothing | nothing | time-outs |
| Begun | partition | nothing | nothing | where the log begins is known |
| Fetched | partition | nothing | nothing | a piece of the log is to be read at the start |
| Loaded | disk | nothing | nothing | a piece of the log has been read |
| Stored | partition | nothing | nothing | a batch of records is in the log, or could not be |

Always true: requests make records, records make state: an offset is shown, and an assignment given out, only after
its record is as durable as the topic `__groups` promises; whoever replays the log has the same state. The log does
not grow without bound: when it has, the state is written anew and what was before it is deleted.
"""

import heapq
from collections.abc import Iterable, Mapping
from functools import partial
from typing import ClassVar

import attrs
import structlog

from dduomq.actors.actor import Actor, Mailbox, Message, Reply
from dduomq.actors.alarms import Alarm, Alarms
from dduomq.actors.coordinator_log import Begun, CoordinatorLog, Entry, Fetched, Loaded, Stored
from dduomq.actors.coordinator_messages import (
    Commit,
    DeleteGroup,
    DeleteOffsets,
    DescribeGroup,
    FetchOffsets,
    Gone,
    GroupDescription,
    GroupOverview,
    Heartbeat,
    Join,
    Leave,
    ListGroups,
    Sync,
)
from dduomq.actors.partition_messages import Acked
from dduomq.actors.router import Routes
from dduomq.errors import (
    CoordinatorLoading,
    CoordinatorNotAvailable,
    DduomqError,
    GroupNotEmpty,
    GroupNotFound,
    InvalidGroupId,
    Overloaded,
    SubscribedToTopic,
    UnknownMember,
)
from dduomq.groups import records
from dduomq.groups.classic import EMPTY, ClassicGroup
from dduomq.groups.member import NEVER, JoinResult, SyncResult
from dduomq.groups.records import Committed, GroupKey, Key, OffsetKey, Place
from dduomq.groups.subscription import topics_of
from dduomq.limits import (
    GROUP_NAME_CHARACTERS_MAX,
    GROUPS_PER_COORDINATOR_MAX,
    OFFSET_RETENTION_MS,
)
from dduomq.ports import Clock, Rng

EXPIRY_INTERVAL_S = 600


class Group:
    """One group: its members, and how far it has come."""

    __slots__ = ("alarm_at", "changed_ms", "classic", "offsets", "stored")

    def __init__(self, name: str) -> None:
        self.classic = ClassicGroup(name)
        self.offsets: dict[Place, Committed] = {}
        self.stored = -1  # the generation whose record is in the log, or on its way
        self.changed_ms = 0
        self.alarm_at = NEVER  # when its time-outs are looked at next


@attrs.frozen
class CoordinatorWorld:
    """What all coordinators of a node share."""

    clock: Clock
    rng: Rng
    disk: Mailbox
    alarms: Alarms
    routes: Routes
    log: structlog.stdlib.BoundLogger


class CoordinatorActor(Actor):
    """Answers for the groups of one partition of `__groups`."""

    __slots__ = (
        "_alarm_at", "_due", "_expire_at", "_groups", "_log", "_world",
    )  # fmt: skip
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        Join: "_on_join",
        Sync: "_on_sync",
        Heartbeat: "_on_heartbeat",
        Leave: "_on_leave",
        Commit: "_on_commit",
        FetchOffsets: "_on_fetch_offsets",
        DeleteOffsets: "_on_delete_offsets",
        ListGroups: "_on_list_groups",
        DescribeGroup: "_on_describe_group",
        DeleteGroup: "_on_delete_group",
        Alarm: "_on_alarm",
        Begun: "_on_begun",
        Fetched: "_on_fetched",
        Loaded: "_on_loaded",
        Stored: "_on_stored",
    }

    def __init__(self, mailbox: Mailbox, partition: Mailbox, world: CoordinatorWorld) -> None:
        super().__init__(mailbox)
        self._world = world
        self._log = CoordinatorLog(
            mailbox, partition, world.disk, world.clock, world.log, self._apply,
            lambda: [_live(name, group) for name, group in self._groups.items()],
        )  # fmt: skip
        self._groups: dict[str, Group] = {}
        self._due: list[tuple[float, str]] = []
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
            self._world.log.info("groups_loaded", coordinator=self.mailbox.name, groups=len(self._groups))

    def _on_loaded(self, message: Loaded) -> None:
        self._log.loaded(message)

    def _on_stored(self, message: Stored) -> None:
        self._log.stored(message)

    def _apply(self, key: Key, value: bytes | None) -> None:
        """What a record says is so."""
        if isinstance(key, OffsetKey):
            if value is not None:
                self._group(key.group).offsets[key.place] = records.decode_offset(value)
            elif key.group in self._groups:
                self._groups[key.group].offsets.pop(key.place, None)
        elif value is None:
            self._groups.pop(key.group, None)
        else:
            record, group = records.decode_group(value), self._group(key.group)
            group.classic = ClassicGroup(key.group)
            group.classic.restore(record, self._now())
            group.stored, group.changed_ms = record.generation, record.changed_ms
            self._schedule(group)

    def _group(self, name: str) -> Group:
        group = self._groups.get(name)
        if group is None:
            group = self._groups[name] = Group(name)
            group.changed_ms = self._world.clock.wall_ms()
        return group

    def _ready(self, name: str, *, create: bool = False) -> Group:
        """The group; raises while the log is being read, and for one that is not there."""
        if not self._log.is_loaded:
            raise CoordinatorLoading
        if not name or len(name) > GROUP_NAME_CHARACTERS_MAX:
            raise InvalidGroupId(f"a group's name has 1 to {GROUP_NAME_CHARACTERS_MAX} characters")
        if name not in self._groups:
            if not create:
                raise GroupNotFound(f"there is no group {name!r}")
            if len(self._groups) >= GROUPS_PER_COORDINATOR_MAX:
                raise Overloaded(f"{self.mailbox.name} has {GROUPS_PER_COORDINATOR_MAX} groups, not more")
        return self._group(name)

    # --- members ------------------------------------------------------------------------------------

    def _on_join(self, message: Join) -> None:
        reply: Reply[JoinResult] | None = message.reply
        assert reply is not None
        request = message.request
        is_new = not request.member_id
        group = self._ready(message.group, create=True) if is_new else self._member_group(message.group)
        group.classic.join(request, self._now(), self._new_id, reply.set)
        self._changed(group)

    def _on_sync(self, message: Sync) -> None:
        reply: Reply[SyncResult] | None = message.reply
        assert reply is not None
        group = self._member_group(message.group)
        is_to_store = group.classic.sync(
            message.member_id, message.instance_id, message.generation, message.assignments, self._now(), reply.set,
            protocol_type=message.protocol_type, protocol=message.protocol,
        )  # fmt: skip
        if is_to_store:
            self._store_group(group)
        self._changed(group)

    def _member_group(self, name: str) -> Group:
        """A group of which somebody says he is a member."""
        try:
            return self._ready(name)
        except GroupNotFound as error:
            raise UnknownMember(error.message) from None

    def _on_heartbeat(self, message: Heartbeat) -> None:
        assert message.reply is not None
        group = self._member_group(message.group)
        group.classic.heartbeat(message.member_id, message.instance_id, message.generation, self._now())
        message.reply.set(None)

    def _on_leave(self, message: Leave) -> None:
        assert message.reply is not None
        group = self._member_group(message.group)
        gone = []
        for member_id, instance_id in message.members:
            try:
                left = group.classic.leave(member_id, instance_id, self._now())
            except DduomqError as error:
                gone.append(Gone(member_id, instance_id, error))
            else:
                gone.append(Gone(left, instance_id, None))
        message.reply.set(tuple(gone))
        self._changed(group)

    def _changed(self, group: Group) -> None:
        """A group that has become empty says so in the log, too."""
        classic = group.classic
        if classic.state == EMPTY and classic.generation != max(group.stored, 0):
            self._store_group(group)
        if classic.is_unused and group.stored < 0 and not group.offsets:
            self._groups.pop(classic.name, None)  # a join that was refused leaves nothing behind
        else:
            self._schedule(group)

    def _store_group(self, group: Group) -> None:
        classic, generation = group.classic, group.classic.generation
        group.stored = generation
        group.changed_ms = self._world.clock.wall_ms()

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                classic.stored(generation, self._now())
            else:
                group.stored = -1
                classic.not_stored(generation, self._now())
            self._schedule(group)

        value = records.encode_group(classic.record(group.changed_ms))
        self._log.store([(GroupKey(classic.name), value)], stored)

    # --- offsets ------------------------------------------------------------------------------------

    def _on_commit(self, message: Commit) -> None:
        reply = message.reply
        assert reply is not None
        is_simple = message.generation < 0 and not message.member_id
        group = self._ready(message.group, create=True) if is_simple else self._member_group(message.group)
        group.classic.check_commit(message.member_id, message.instance_id, message.generation, self._now())
        if not message.offsets:
            reply.set(None)
            return

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                held = self._group(message.group)  # the group may have been deleted since, and this comes behind that
                held.offsets.update(message.offsets)
                held.changed_ms = self._world.clock.wall_ms()
                reply.set(None)
            else:
                reply.fail(result)

        entries: list[Entry] = [
            (OffsetKey(message.group, place), records.encode_offset(committed)) for place, committed in message.offsets
        ]
        self._log.store(entries, stored)

    def _on_fetch_offsets(self, message: FetchOffsets) -> None:
        assert message.reply is not None
        try:
            group = self._ready(message.group)
        except GroupNotFound:
            message.reply.set({})
            return
        message.reply.set(dict(group.offsets))

    def _on_delete_offsets(self, message: DeleteOffsets) -> None:
        reply = message.reply
        assert reply is not None
        group = self._ready(message.group)
        subscribed = group.classic.subscribed(topics_of)
        refused = {place: SubscribedToTopic() for place, topic in message.places.items() if topic in subscribed}
        gone = [place for place in message.places if place not in refused and place in group.offsets]

        def stored(result: Acked | DduomqError) -> None:
            if not isinstance(result, Acked):
                reply.fail(result)
                return
            for place in gone:
                group.offsets.pop(place, None)
            reply.set(refused)

        if gone:
            self._log.store([(OffsetKey(message.group, place), None) for place in gone], stored)
        else:
            reply.set(refused)

    # --- looking and deleting -----------------------------------------------------------------------

    def _on_list_groups(self, message: ListGroups) -> None:
        assert message.reply is not None
        if not self._log.is_loaded:
            raise CoordinatorLoading
        message.reply.set(tuple(_overview(group) for group in self._groups.values()))

    def _on_describe_group(self, message: DescribeGroup) -> None:
        assert message.reply is not None
        group = self._ready(message.group)
        classic = group.classic
        members = tuple((member.record(), member.metadata(classic.protocol)) for member in classic.members.values())
        message.reply.set(GroupDescription(_overview(group), classic.generation, classic.protocol or "", members))

    def _on_delete_group(self, message: DeleteGroup) -> None:
        reply = message.reply
        assert reply is not None
        group = self._ready(message.group)
        if group.classic.members:
            raise GroupNotEmpty(f"group {message.group!r} has {len(group.classic.members)} members; stop them first")

        def stored(result: Acked | DduomqError) -> None:
            if isinstance(result, Acked):
                if not group.classic.members:
                    self._groups.pop(message.group, None)
                reply.set(None)
            else:
                reply.fail(result)

        self._log.store(_tombstones(message.group, group), stored)

    # --- time ---------------------------------------------------------------------------------------

    def _now(self) -> float:
        return self._world.clock.monotonic()

    def _new_id(self) -> str:
        return f"{self._world.rng.getrandbits(128):032x}"

    def _schedule(self, group: Group) -> None:
        """Look at the group's time-outs when the first of them is due."""
        due = group.classic.next_due()
        if due < group.alarm_at:
            group.alarm_at = due
            heapq.heappush(self._due, (due, group.classic.name))

    def _on_alarm(self, _message: Alarm) -> None:
        now = self._now()
        if now >= self._alarm_at:
            self._alarm_at = NEVER
        if now >= self._log.retry_at:
            self._log.begin()
        while self._due and self._due[0][0] <= now:
            at, name = heapq.heappop(self._due)
            group = self._groups.get(name)
            if group is not None and group.alarm_at == at:
                group.alarm_at = NEVER
                group.classic.tick(now)
                self._changed(group)
        if now >= self._expire_at:
            self._expire_at = now + EXPIRY_INTERVAL_S
            self._expire()

    def _expire(self) -> None:
        """Forget groups that nobody has used for long, and offsets of topics that are no more."""
        if not self._log.is_loaded:
            return
        oldest = self._world.clock.wall_ms() - OFFSET_RETENTION_MS
        for name, group in list(self._groups.items()):
            if group.classic.members:
                continue
            newest = max((held.commit_ms for held in group.offsets.values()), default=group.changed_ms)
            lost = [place for place in group.offsets if self._world.routes.name_of(place[0]) is None]
            if max(newest, group.changed_ms) < oldest:
                self._log.store(
                    _tombstones(name, group), partial(self._forgotten, name, list(group.offsets), whole=True)
                )
            elif lost:
                entries: list[Entry] = [(OffsetKey(name, place), None) for place in lost]
                self._log.store(entries, partial(self._forgotten, name, lost, whole=False))

    def _forgotten(self, name: str, places: Iterable[Place], result: Acked | DduomqError, *, whole: bool) -> None:
        group = self._groups.get(name)
        if group is None or not isinstance(result, Acked):
            return
        for place in places:
            group.offsets.pop(place, None)
        if whole and not group.classic.members and not group.offsets:
            del self._groups[name]

    def _set_alarm(self) -> None:
        at = min(self._due[0][0] if self._due else NEVER, self._expire_at, self._log.retry_at)
        if at < self._alarm_at:
            self._alarm_at = at
            self._world.alarms.wake(self.mailbox, at)

    # --- storing ------------------------------------------------------------------------------------

    def after_drain(self) -> None:
        self._log.flush()
        self._set_alarm()

    # --- the end ------------------------------------------------------------------------------------

    def on_crash(self, error: BaseException) -> None:
        ended = CoordinatorNotAvailable(f"{self.mailbox.name} starts again")
        for group in self._groups.values():
            group.classic.close(ended)
        self._log.close(ended)

    async def quiesce(self) -> None:
        await self._log.quiesce()


def _overview(group: Group) -> GroupOverview:
    classic = group.classic
    return GroupOverview(classic.name, classic.protocol_type, classic.state)


def _tombstones(name: str, group: Group) -> list[Entry]:
    return [*((OffsetKey(name, place), None) for place in group.offsets), (GroupKey(name), None)]


def _live(name: str, group: Group) -> list[Entry]:
    entries: list[Entry] = [
        (OffsetKey(name, place), records.encode_offset(held)) for place, held in group.offsets.items()
    ]
    if group.stored >= 0 and group.stored == group.classic.generation:
        entries.append((GroupKey(name), records.encode_group(group.classic.record(group.changed_ms))))
    return entries
