"""The router: makes the node's partitions what the metadata says, and tells everybody where they are.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| TopicsSeen | node | nothing | nothing | the whole metadata: partitions are opened, what is gone is deleted |
| TopicSeen | node | nothing | nothing | one topic made, changed or deleted |
| PartitionsSeen | node | nothing | nothing | who keeps and leads partitions: replicas begin, change their role, or go |
| AwaitTopic | admin | None | nothing | answered when that version of the topic is in force here |
| AwaitOpen | node | None | nothing | answered when no partition is being opened |
| CloseAll | node | None | nothing | closes every partition; answered when all are closed |
| Opened | partition | nothing | nothing | counts the partitions still opening |
| Removed | disk | nothing | nothing | a partition's directory is gone; its name may be used again |

Always true: a topic of a name comes into being only after the files of its predecessor have left the name; an older
state never follows a newer one, as it could take away what is to be here now. A node alone
leads every partition; in a cluster it has the replicas that the partitions' records give to it, and for all others
a door to where they are led.
"""

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from itertools import count
from typing import ClassVar, TypeAlias

import attrs

from dduomq.actors.actor import Actor, Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.janitor import Joined, Left
from dduomq.actors.partition import PartitionActor, PartitionSpec, PartitionWorld
from dduomq.actors.partition_messages import Close, Configure
from dduomq.actors.replica_messages import Assign
from dduomq.actors.routes import Routes, TopicRoute
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import NO_LEADER, PartitionRecord, TopicRecord
from dduomq.log.settings import TopicSettings

Key: TypeAlias = tuple[str, int]  # topic id, partition


@attrs.frozen(kw_only=True)
class TopicsSeen(Message):
    topics: tuple[tuple[TopicRecord, int], ...]


@attrs.frozen(kw_only=True)
class TopicSeen(Message):
    """`record` None: the topic is gone."""

    name: str
    record: TopicRecord | None
    version: int


@attrs.frozen
class PartitionSeen:
    """`record` None: it is gone. `version`: of its key in the metadata."""

    topic_id: str
    partition: int
    record: PartitionRecord | None
    version: int


@attrs.frozen(kw_only=True)
class PartitionsSeen(Message):
    """`is_whole`: these are all there are."""

    partitions: tuple[PartitionSeen, ...]
    is_whole: bool = False


@attrs.frozen(kw_only=True)
class AwaitTopic(Message):
    name: str
    version: int


@attrs.frozen(kw_only=True)
class AwaitOpen(Message):
    pass


@attrs.frozen(kw_only=True)
class CloseAll(Message):
    pass


@attrs.frozen(kw_only=True)
class Opened(Message):
    partition: str


@attrs.frozen(kw_only=True)
class Removed(Message):
    topic: str
    key: Key
    error: BaseException | None


@attrs.frozen
class RouterSetup:
    """What the router needs to make partitions.

    `open_door(topic, topic_id, partition)` gives the way to a partition that is led elsewhere; None on a node alone.
    `on_change` is called after the table has changed.
    """

    world: PartitionWorld
    supervisor: Supervisor
    topics_directory: str
    leader_epoch: int
    clean: bool
    make_settings: Callable[[TopicRecord], TopicSettings]
    open_door: Callable[[str, str, int], Mailbox] | None = None
    on_change: Callable[[], None] = lambda: None


def _record(seen: PartitionSeen) -> PartitionRecord:
    """Of a partition that is there."""
    assert seen.record is not None
    return seen.record


class RouterActor(Actor):
    __slots__ = (
        "_awaiting", "_changed", "_closing", "_deferred", "_disk", "_doors", "_going", "_has_opened", "_held",
        "_leaving", "_local", "_opening", "_routes", "_setup", "_told", "_versions", "_waiting_open",
    )  # fmt: skip
    CAN_RESTART: ClassVar[bool] = False  # it knows what runs: a successor would open logs that are open already
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        TopicsSeen: "_on_topics_seen",
        TopicSeen: "_on_topic_seen",
        PartitionsSeen: "_on_partitions_seen",
        AwaitTopic: "_on_await_topic",
        AwaitOpen: "_on_await_open",
        CloseAll: "_on_close_all",
        Opened: "_on_opened",
        Removed: "_on_removed",
    }

    def __init__(self, mailbox: Mailbox, setup: RouterSetup, routes: Routes) -> None:
        super().__init__(mailbox)
        self._setup = setup
        self._routes = routes
        self._disk = DiskClient(setup.world.disk)
        self._held: dict[Key, PartitionSeen] = {}
        self._changed: dict[str, set[int]] = {}  # partitions whose records have, by their topic's id
        self._told: dict[Key, int] = {}  # which version of its record a replica of this node knows
        self._local: dict[Key, Mailbox] = {}
        self._doors: dict[Key, Mailbox] = {}
        self._versions: dict[str, int] = {}
        self._opening: set[str] = set()
        self._going: set[Key] = set()  # replicas whose directories are on their way out
        self._leaving: dict[str, int] = {}
        self._deferred: dict[str, TopicSeen] = {}
        self._awaiting: list[AwaitTopic] = []
        self._waiting_open: list[AwaitOpen] = []
        self._has_opened = False  # what was there when the node started
        self._closing: CloseAll | None = None

    # --- metadata -----------------------------------------------------------------------------------

    def _on_topics_seen(self, message: TopicsSeen) -> None:
        if self._closing is not None:
            return
        here = {record.name for record, _ in message.topics}
        for name in [name for name in self._routes.table if name not in here]:
            self._on_topic_seen(TopicSeen(name=name, record=None, version=self._versions.get(name, 0)))
        table = dict(self._routes.table)
        for record, version in message.topics:
            self._take(table, TopicSeen(name=record.name, record=record, version=version))
        self._swap(table)

    def _on_topic_seen(self, message: TopicSeen) -> None:
        """What an engine tells late must not undo what was read since: it may be another topic of the name."""
        if self._closing is not None or message.version < self._versions.get(message.name, 0):
            return
        table = dict(self._routes.table)
        self._take(table, message)
        self._swap(table)

    def _swap(self, table: Mapping[str, TopicRoute]) -> None:
        if self._closing is None:
            self._routes.table = table
            self._setup.on_change()

    def _take(self, table: dict[str, TopicRoute], message: TopicSeen) -> None:
        name, record, held = message.name, message.record, table.get(message.name)
        self._versions[name] = message.version
        if held is not None and (record is None or record.topic_id != held.record.topic_id):
            del table[name]
            self._delete(held)
            held = None
        if record is None:
            self._deferred.pop(name, None)
        elif name in self._leaving:
            self._deferred[name] = message
        else:
            settings = self._setup.make_settings(record)
            if held is not None and settings != held.settings:
                for at in range(len(held.partitions)):
                    self._tell(record.topic_id, at, Configure(settings=settings))
            table[name] = self._route(record, settings)

    def _tell(self, topic_id: str, at: int, message: Message) -> None:
        mailbox = self._local.get((topic_id, at))
        if mailbox is not None:
            mailbox.post(message)

    def _on_partitions_seen(self, message: PartitionsSeen) -> None:
        """Roles change here; topics whose records are still to come find theirs when they come."""
        if message.is_whole:
            for topic_id, at in self._held:
                self._changed.setdefault(topic_id, set()).add(at)
            self._held = {}
        for seen in message.partitions:
            held = self._held.get((seen.topic_id, seen.partition))
            if held is not None and seen.version < held.version:
                continue  # told late: what was read since is newer
            self._changed.setdefault(seen.topic_id, set()).add(seen.partition)
            if seen.record is None:
                self._held.pop((seen.topic_id, seen.partition), None)
            else:
                self._held[seen.topic_id, seen.partition] = seen

    def _route_anew(self, changed: Mapping[str, set[int]]) -> None:
        table = dict(self._routes.table)
        for topic_id, numbers in changed.items():
            name = self._routes.name_of(topic_id)
            if name is not None:
                table[name] = self._route_some(table[name], sorted(numbers))
        self._swap(table)

    # --- partitions ---------------------------------------------------------------------------------

    def _route(self, record: TopicRecord, settings: TopicSettings) -> TopicRoute:
        """The topic's partitions as their records want them: replicas of this node are started, told, or let go."""
        seen = [self._seen(record, at) for at in range(record.partitions)]
        mailboxes = tuple([self._place(record, settings, one) for one in seen])
        found = {at: self._local.get((record.topic_id, at)) for at in range(record.partitions)}
        kept = {at: mailbox for at, mailbox in found.items() if mailbox is not None}
        return TopicRoute(record, settings, mailboxes, tuple([_record(one) for one in seen]), kept)

    def _route_some(self, route: TopicRoute, numbers: Iterable[int]) -> TopicRoute:
        """The same where the records of these partitions alone have changed: of the others nothing is looked at."""
        mailboxes, records, kept = list(route.partitions), list(route.records), dict(route.kept)
        for at in numbers:
            if at >= len(records):
                continue  # the topic's own record is still to come
            seen = self._seen(route.record, at)
            mailboxes[at], records[at] = self._place(route.record, route.settings, seen), _record(seen)
            local = self._local.get((route.record.topic_id, at))
            if local is not None:
                kept[at] = local
            else:
                kept.pop(at, None)
        return attrs.evolve(route, partitions=tuple(mailboxes), records=tuple(records), kept=kept)

    def _seen(self, record: TopicRecord, at: int) -> PartitionSeen:
        """Who keeps the partition; a node alone does, and before it is known nobody leads it."""
        held = self._held.get((record.topic_id, at))
        if held is not None:
            return held
        here = (self._routes.node_id,) if self._setup.open_door is None else ()
        leader = here[0] if here else NO_LEADER
        alone = PartitionRecord(record.name, record.topic_id, at, here, leader, self._setup.leader_epoch, here)
        return PartitionSeen(record.topic_id, at, alone, 0)

    def _place(self, topic: TopicRecord, settings: TopicSettings, seen: PartitionSeen) -> Mailbox:
        """Where the partition is asked for."""
        record, key = seen.record, (topic.topic_id, seen.partition)
        assert record is not None
        local = self._local.get(key)
        is_known = key in self._held or self._setup.open_door is None
        if self._routes.node_id in record.replicas:
            if local is None and key not in self._going:
                local = self._local[key] = self._start(topic, settings, seen)
            elif local is not None and self._told[key] != seen.version:
                local.post(Assign(record=record, version=seen.version))
            if local is not None:
                self._told[key] = seen.version
        elif local is not None and is_known:
            self._let_go(topic, seen.partition)
            local = None
        if local is not None and record.leader == self._routes.node_id:
            return local
        return self._door(topic, seen.partition)

    def _door(self, topic: TopicRecord, at: int) -> Mailbox:
        key = (topic.topic_id, at)
        door = self._doors.get(key)
        if door is None:
            assert self._setup.open_door is not None
            door = self._doors[key] = self._setup.open_door(topic.name, topic.topic_id, at)
        return door

    def _start(self, record: TopicRecord, settings: TopicSettings, seen: PartitionSeen) -> Mailbox:
        setup, at = self._setup, seen.partition
        assert seen.record is not None
        name = f"{record.name}-{at}"
        spec = PartitionSpec(
            record.name,
            at,
            record.topic_id,
            f"{setup.topics_directory}/{name}",
            settings,
            seen.record.leader_epoch,
            setup.clean,
            seen.record if seen.version else None,
            seen.version,
            is_found=not self._has_opened,
        )
        mailbox = Mailbox(name)
        self._opening.add(name)
        opened = Opened(partition=name)
        lives = count()

        def make(box: Mailbox) -> PartitionActor:
            """One that comes after a crash may trust nothing, and has the settings and the role of now."""
            route, held = self._routes.table.get(record.name), self._held.get((record.topic_id, at), seen)
            now = spec if not next(lives) else attrs.evolve(
                spec, clean=False, settings=settings if route is None else route.settings,
                record=spec.record and held.record, record_version=held.version,
            )  # fmt: skip
            return PartitionActor(box, now, setup.world, lambda _result: self.mailbox.post(opened))

        setup.supervisor.start(mailbox, make)
        setup.world.janitor.offer(Joined(partition=mailbox))
        return mailbox

    # --- deleting -----------------------------------------------------------------------------------

    def _delete(self, route: TopicRoute) -> None:
        """Close the partitions, then take their directories away from the name, then remove them."""
        for at in range(len(route.partitions)):
            self._doors.pop((route.record.topic_id, at), None)
            self._held.pop((route.record.topic_id, at), None)
            self._let_go(route.record, at)

    def _let_go(self, topic: TopicRecord, at: int) -> None:
        """This node has no replica of the partition any more."""
        key = (topic.topic_id, at)
        mailbox = self._local.pop(key, None)
        if mailbox is None:
            return
        del self._told[key]
        self._going.add(key)
        self._leaving[topic.name] = self._leaving.get(topic.name, 0) + 1
        self._setup.world.janitor.offer(Left(partition=mailbox))
        self._opening.discard(mailbox.name)
        closed: Reply[None] = Reply(partial(self._closed, topic.name, key))
        mailbox.post(Close(delete=True, reply=closed))

    def _closed(self, topic: str, key: Key, _value: None, _error: BaseException | None) -> None:
        files = self._setup.world.files
        topic_id, at = key
        directory = f"{self._setup.topics_directory}/{topic}-{at}"
        grave = f"{self._setup.topics_directory}/{topic_id}-{at}.deleted"

        def job() -> None:
            if files.exists(directory):
                files.rename(directory, grave)
                files.sync_dir(self._setup.topics_directory)
                files.remove_tree(grave)

        def done(result: object) -> None:
            error = result if isinstance(result, BaseException) else None
            self.mailbox.post(Removed(topic=topic, key=key, error=error))

        self._disk.submit(job, done)

    def _on_removed(self, message: Removed) -> None:
        if message.error is not None:
            self._setup.world.log.error("topic_files_left", topic=message.topic, reason=str(message.error))
        self._going.discard(message.key)
        left = self._leaving.pop(message.topic) - 1
        if left:
            self._leaving[message.topic] = left
        elif message.topic in self._deferred:
            self._on_topic_seen(self._deferred.pop(message.topic))
        if message.key in self._held:  # it is to be here again
            self._changed.setdefault(message.key[0], set()).add(message.key[1])

    # --- waiting ------------------------------------------------------------------------------------

    def _on_await_topic(self, message: AwaitTopic) -> None:
        self._awaiting.append(message)

    def _on_await_open(self, message: AwaitOpen) -> None:
        self._waiting_open.append(message)

    def _on_opened(self, message: Opened) -> None:
        self._opening.discard(message.partition)

    def _is_settled(self, message: AwaitTopic) -> bool:
        if self._versions.get(message.name, 0) < message.version or message.name in self._deferred:
            return False
        route = self._routes.table.get(message.name)
        if route is None:
            return message.name not in self._leaving
        return all(self._is_in_force(record) for record in route.records)

    def _is_in_force(self, record: PartitionRecord) -> bool:
        """Whether it is known here who keeps a partition, and a replica of this node has been opened."""
        return bool(record.replicas) and f"{record.topic}-{record.partition}" not in self._opening

    def after_drain(self) -> None:
        if self._changed:
            changed, self._changed = self._changed, {}
            self._route_anew(changed)
        if self._awaiting:
            waiting, self._awaiting = self._awaiting, []
            for message in waiting:
                if message.reply is None or message.reply.done:
                    continue
                if self._is_settled(message):
                    message.reply.set(None)
                else:
                    self._awaiting.append(message)
        if not self._opening:
            opened, self._waiting_open = self._waiting_open, []
            self._has_opened = self._has_opened or bool(opened)
            for ready in opened:
                if ready.reply is not None:
                    ready.reply.set(None)

    # --- stopping -----------------------------------------------------------------------------------

    def _on_close_all(self, message: CloseAll) -> None:
        mailboxes = list(self._local.values())
        self._closing = message
        self._routes.table, self._routes.is_closed = {}, True
        left = len(mailboxes)
        failures: list[BaseException] = []

        def closed(_value: None, error: BaseException | None) -> None:
            nonlocal left
            left -= 1
            if error is not None:
                failures.append(error)
            if not left:
                self._all_closed(message, failures)

        for mailbox in mailboxes:
            mailbox.post(Close(reply=Reply(closed)))
        if not mailboxes:
            self._all_closed(message, failures)

    def _all_closed(self, message: CloseAll, failures: list[BaseException]) -> None:
        assert message.reply is not None
        if failures:
            message.reply.fail(failures[0])
        else:
            message.reply.set(None)

    def on_crash(self, error: BaseException) -> None:
        for message in [*self._awaiting, *self._waiting_open]:
            message.refuse(error)
