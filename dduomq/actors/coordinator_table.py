"""A coordinator's groups: which there are, when each has something due, and the log that keeps them.

Part of the coordinator's actor, not a task. Always true: a group is of one kind at a time: its members share out by
the classic protocol, or the broker shares out for them, or they share partitions; its offsets and its queues stay
when the kind changes.
"""

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import attrs
import structlog

from dduomq.actors.actor import Mailbox, Reply
from dduomq.actors.alarms import Alarms
from dduomq.actors.coordinator_log import CoordinatorLog, Entry
from dduomq.actors.coordinator_messages import ConsumerDescription, GroupDescription, GroupOverview
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.partition_messages import Watcher
from dduomq.actors.routes import Routes, TopicRoute
from dduomq.errors import (
    CoordinatorLoading,
    CoordinatorNotAvailable,
    GroupNotFound,
    InconsistentProtocol,
    InvalidGroupId,
    Overloaded,
    UnknownMember,
)
from dduomq.groups import records
from dduomq.groups.assignors import Assignable, Assignor
from dduomq.groups.classic import ClassicGroup
from dduomq.groups.consumer import ConsumerGroup
from dduomq.groups.member import NEVER
from dduomq.groups.queue import Queue
from dduomq.groups.records import QUEUE, Committed, GroupKey, MarksKey, OffsetKey, Place, QueueKey, ShareRecord
from dduomq.groups.share import ASSIGNOR, ShareGroup
from dduomq.limits import GROUP_NAME_CHARACTERS_MAX, GROUPS_PER_COORDINATOR_MAX
from dduomq.ports import Clock, Rng
from dduomq.wire.ranges import Ranges

CLASSIC, CONSUMER, SHARE = "classic", "consumer", "share"
NOT_THERE = object()


@attrs.frozen
class CoordinatorWorld:
    """What all coordinators of a node share. `assignors` are those of the node's user.

    `wheel_of`: the wheel of a topic's partition; None until the wheels run.
    """

    clock: Clock
    rng: Rng
    disk: Mailbox
    alarms: Alarms
    routes: Routes
    log: structlog.stdlib.BoundLogger
    topics: GroupTopics
    wheel_of: Callable[[str, int], Mailbox | None]
    assignors: Mapping[str, Assignor] = attrs.field(factory=dict)


@attrs.frozen
class Parked:
    """A question that is answered when there is something new since `version`, or at its `deadline`."""

    reply: Reply[Any]
    deadline: float
    version: int = -1


class Group:
    """One group: its members, and how far it has come."""

    __slots__ = (
        "alarm_at", "aside", "changed_ms", "classic", "consumer", "doubted", "name", "offsets", "on_their_way",
        "parked", "queues", "record", "share", "stored", "version", "waiting", "watching",
    )  # fmt: skip

    def __init__(self, name: str) -> None:
        self.name = name
        self.classic = ClassicGroup(name)
        self.consumer: ConsumerGroup | None = None  # set while the broker shares out
        self.offsets: dict[Place, Committed] = {}  # those that are stored
        self.on_their_way: dict[Place, Committed | None] = {}  # the newest that are not; None: to be forgotten
        self.aside: dict[Place, Ranges] = {}  # what was set aside behind the committed offset, stored or on its way
        self.record: records.GroupRecord | None = None  # of the classic members, as it is in the log, or on its way
        self.stored = -1  # the classic generation whose record is in the log, or on its way
        self.changed_ms = 0
        self.alarm_at = NEVER  # when its time-outs are looked at next
        self.parked: dict[str, Parked] = {}  # heartbeats, by member
        self.watching: list[Parked] = []  # who wants to know of changes
        self.version = 1  # counts them
        self.share: ShareGroup | None = None  # set while its members share partitions
        self.queues: dict[Place, Queue] = {}
        self.waiting: list[tuple[Watcher, frozenset[Place]]] = []  # who wants records of which queues
        self.doubted: set[str] = set()  # members that are asked about records whose lock has expired

    @property
    def _machine(self) -> ClassicGroup | ConsumerGroup | ShareGroup:
        return self.share or self.consumer or self.classic

    @property
    def kind(self) -> str:
        if self.share is not None:
            return SHARE
        return CLASSIC if self.consumer is None else CONSUMER

    @property
    def state(self) -> str:
        return self._machine.state

    @property
    def epoch(self) -> int:
        machine = self._machine
        return machine.generation if isinstance(machine, ClassicGroup) else machine.epoch

    @property
    def member_count(self) -> int:
        return len(self._machine.members) if self.share is None else self.share.member_count

    @property
    def is_unused(self) -> bool:
        """Whether a join that was refused has left nothing but the name."""
        is_classic = self.consumer is None and self.share is None
        return is_classic and self.classic.is_unused and self.stored < 0 and not self.offsets and not self.queues

    def share_out_by(self, consumer: ConsumerGroup) -> None:
        """The broker shares out from now on."""
        if self.consumer is None:
            self._close_classic("the group is shared out by the broker from now on")
        self.consumer, self.share = consumer, None

    def _close_classic(self, why: str) -> None:
        self.classic.close(CoordinatorNotAvailable(why))
        generation, self.classic, self.stored = self.classic.generation, ClassicGroup(self.name), -1
        self.classic.generation = generation
        self.record = None

    def shared(self, *, is_join: bool) -> ShareGroup:
        """A machine for members that share partitions. Raises `GroupNotFound` where there are others."""
        if self.member_count or not is_join:
            raise GroupNotFound(f"group {self.name!r} is not a share group: its members use the {self.kind} protocol")
        share = ShareGroup(self.name, ShareRecord(epoch=max(self.epoch, 0)))
        share.is_dirty = True
        return share

    def share_by(self, share: ShareGroup) -> None:
        """The members share partitions from now on."""
        if self.share is None:
            self._close_classic("the group's members share partitions from now on")
        self.share, self.consumer = share, None

    def part_from_sharing(self, error: type[GroupNotFound | InconsistentProtocol]) -> None:
        """A member comes that does not share partitions: it may, unless there are others that do."""
        if self.share is None:
            return
        if self.share.members:
            raise error(f"group {self.name!r} is a share group; choose another name, or stop its members first")
        self.classic.generation = max(self.classic.generation, self.share.epoch)
        self.share = None

    @property
    def settings(self) -> ShareRecord:
        """Of its queues."""
        return ShareRecord() if self.share is None else self.share.record

    def wake(self, place: Place | None = None) -> None:
        """There may be records of a queue to get, or something is not as it was."""
        left = []
        for watcher, places in self.waiting:
            if place is None or place in places:
                watcher.wake()
            else:
                left.append((watcher, places))
        self.waiting = left

    def next_due(self) -> float:
        due = min(self._machine.next_due(), *(queue.next_due() for queue in self.queues.values()), NEVER)
        waiting = min((parked.deadline for parked in self.parked.values()), default=NEVER)
        return min(due, waiting, *(parked.deadline for parked in self.watching), NEVER)

    def everything(self) -> list[Entry]:
        """All entries that are so once what is on its way is stored."""
        offsets = {**self.offsets, **self.on_their_way}
        entries: list[Entry] = [
            (OffsetKey(self.name, place), records.encode_offset(held))
            for place, held in offsets.items()
            if held is not None
        ]
        entries += [(MarksKey(self.name, at), records.encode_marks(held.flat)) for at, held in self.aside.items()]
        entries += [
            (QueueKey(self.name, QUEUE, place), records.encode_queue(queue.end, queue.records()))
            for place, queue in self.queues.items()
        ]
        if self.share is not None:
            entries += self.share.everything()
        elif self.consumer is not None:
            entries += self.consumer.everything(self.changed_ms)
        elif self.record is not None:
            entries.append((GroupKey(self.name), records.encode_group(self.record)))
        return entries

    def tombstones(self) -> list[Entry]:
        """What ends it."""
        places = {**self.offsets, **self.on_their_way}
        queues = [QueueKey(self.name, QUEUE, place) for place in self.queues]
        return [
            *((OffsetKey(self.name, place), None) for place in places),
            *((key, None) for key in queues),
            (GroupKey(self.name), None),
        ]

    # --- offsets ------------------------------------------------------------------------------------

    def newest(self, place: Place) -> Committed | None:
        """What was committed last, stored or not."""
        return self.on_their_way.get(place, self.offsets.get(place))

    def send(self, offsets: Mapping[Place, Committed | None]) -> None:
        """These are on their way into the log."""
        self.on_their_way.update(offsets)

    def arrived(self, offsets: Mapping[Place, Committed | None], *, is_stored: bool) -> None:
        """They are stored, in the order they were sent, or they could not be."""
        for place, committed in offsets.items():
            if self.on_their_way.get(place, NOT_THERE) is committed:
                del self.on_their_way[place]
            if not is_stored:
                continue
            if committed is None:
                self.offsets.pop(place, None)
            else:
                self.committed(place, committed)

    def committed(self, place: Place, committed: Committed) -> None:
        """This is so, and stored: what lies before needs no mark any more."""
        self.offsets[place] = committed
        aside = self.aside.get(place)
        if aside is not None:
            aside.drop_below(committed.offset)
            if not aside:
                del self.aside[place]

    # --- what was set aside -------------------------------------------------------------------------

    def marks(self, place: Place) -> Ranges:
        """What was set aside of a place."""
        return self.aside.setdefault(place, Ranges())

    # --- looking ------------------------------------------------------------------------------------

    def has_changed(self, now: float) -> None:
        """Members, their state or what they read is not as before."""
        self.version += 1
        self.tell_watchers(now)

    def tell_watchers(self, now: float) -> None:
        """Who waits for a change, or has waited long enough, is answered."""
        left = []
        for watching in self.watching:
            if watching.deadline <= now or watching.version != self.version:
                watching.reply.set(self.description())
            else:
                left.append(watching)
        self.watching = left

    def overview(self) -> GroupOverview:
        protocol_type = self.classic.protocol_type if self.kind == CLASSIC else self.kind
        return GroupOverview(self.name, self.kind, protocol_type, self.state, self.member_count)

    def description(self) -> GroupDescription:
        classic, consumer, share = self.classic, self.consumer, self.share
        if share is not None:
            sharing = tuple(
                ConsumerDescription(m.member_id, m.said, m.current(), m.assigned) for m in share.members.values()
            )
            return GroupDescription(self.overview(), self.version, share.epoch, share.epoch, ASSIGNOR, (), sharing)
        if consumer is None:
            members = tuple((m.record(), m.metadata(classic.protocol)) for m in classic.members.values())
            return GroupDescription(
                self.overview(), self.version, self.epoch, self.epoch, classic.protocol or "", members, ()
            )
        consumers = tuple(
            ConsumerDescription(m.member_id, m.said, m.current(), consumer.target.get(m.member_id, frozenset()))
            for m in consumer.members.values()
        )
        return GroupDescription(
            self.overview(), self.version, consumer.epoch, consumer.target_epoch, consumer.assignor, (), consumers
        )


class GroupTable:
    """See the file's head."""

    __slots__ = ("_due", "groups", "log", "name", "world")

    def __init__(self, name: str, log: CoordinatorLog, world: CoordinatorWorld) -> None:
        self.name = name
        self.log = log
        self.world = world
        self.groups: dict[str, Group] = {}
        self._due: list[tuple[float, str]] = []

    def now(self) -> float:
        return self.world.clock.monotonic()

    def wall_ms(self) -> int:
        return self.world.clock.wall_ms()

    def new_id(self) -> str:
        return f"{self.world.rng.getrandbits(128):032x}"

    def clear(self) -> None:
        """Before the log is read anew."""
        self.groups = {}
        self._due = []

    def get_or_make(self, name: str) -> Group:
        group = self.groups.get(name)
        if group is None:
            group = self.groups[name] = Group(name)
            group.changed_ms = self.wall_ms()
        return group

    def forget(self, group: Group) -> None:
        """It is no more: who waits for news of it is told. Another one of the name begins anew."""
        if self.groups.get(group.name) is group:
            del self.groups[group.name]
        gone = GroupNotFound(f"group {group.name!r} has been deleted")
        for waiting in (*group.parked.values(), *group.watching):
            if not waiting.reply.done:
                waiting.reply.fail(gone)
        group.parked, group.watching = {}, []
        group.wake()

    def ready(self, name: str, *, create: bool = False) -> Group:
        """The group; raises while the log is being read, and for one that is not there."""
        if not self.log.is_loaded:
            raise CoordinatorLoading
        if not name or len(name) > GROUP_NAME_CHARACTERS_MAX:
            raise InvalidGroupId(f"a group's name has 1 to {GROUP_NAME_CHARACTERS_MAX} characters")
        if name not in self.groups:
            if not create:
                raise GroupNotFound(f"there is no group {name!r}")
            if len(self.groups) >= GROUPS_PER_COORDINATOR_MAX:
                raise Overloaded(f"{self.name} has {GROUPS_PER_COORDINATOR_MAX} groups, not more")
        return self.get_or_make(name)

    def of_member(self, name: str) -> Group:
        """A group of which somebody says he is a member."""
        try:
            return self.ready(name)
        except GroupNotFound as error:
            raise UnknownMember(error.message) from None

    def schedule(self, group: Group) -> None:
        """Look at the group's time-outs when the first of them is due."""
        self.schedule_at(group, group.next_due())

    def schedule_at(self, group: Group, due: float) -> None:
        """The same where nothing else of the group has changed: a heartbeat costs no look at all members."""
        if due < group.alarm_at:
            group.alarm_at = due
            heapq.heappush(self._due, (due, group.name))

    def first_due(self) -> float:
        return self._due[0][0] if self._due else NEVER

    def take_due(self, now: float) -> Iterable[Group]:
        """The groups whose time has come."""
        while self._due and self._due[0][0] <= now:
            at, name = heapq.heappop(self._due)
            group = self.groups.get(name)
            if group is not None and group.alarm_at == at:
                group.alarm_at = NEVER
                yield group


class RoutesCatalog:
    """The node's topics, as a group's machine sees them."""

    __slots__ = ("_routes",)

    def __init__(self, routes: Routes) -> None:
        self._routes = routes

    @property
    def version(self) -> object:
        return self._routes.table

    def topic(self, name: str) -> Assignable | None:
        route: TopicRoute | None = self._routes.table.get(name)
        return None if route is None else Assignable(route.record.topic_id, name, len(route.partitions))

    def names(self) -> Iterable[str]:
        """Those that a pattern may find: what the broker keeps for itself, or for a group, it does not."""
        routes = self._routes.table.items()
        return (name for name, route in routes if not (name.startswith("__") or route.record.kind))
