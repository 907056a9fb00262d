"""The router: makes the node's partitions what the metadata says, and tells everybody where they are.

| message | from | answer | may wait on | effect |
|---|---|---|---|---|
| TopicsSeen | node | nothing | nothing | the whole metadata: partitions are opened, what is gone is deleted |
| TopicSeen | node | nothing | nothing | one topic made, changed or deleted |
| AwaitTopic | admin | None | nothing | answered when that version of the topic is in force here |
| AwaitOpen | node | None | nothing | answered when no partition is being opened |
| CloseAll | node | None | nothing | closes every partition; answered when all are closed |
| Opened | partition | nothing | nothing | counts the partitions still opening |
| Removed | disk | nothing | nothing | a deleted topic's directory is gone; its name may be used again |

Always true: `Routes.table` is never changed, only replaced by a new one, so a reader needs no lock; a topic
of a name comes into being only after the files of its predecessor have left the name.
"""

from collections.abc import Callable, Mapping
from functools import partial
from itertools import count
from typing import ClassVar

import attrs

from dduomq.actors.actor import Actor, Mailbox, Message, Reply
from dduomq.actors.disk import DiskClient
from dduomq.actors.janitor import Joined, Left
from dduomq.actors.partition import PartitionActor, PartitionSpec, PartitionWorld
from dduomq.actors.partition_messages import Close, Configure
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import TopicRecord
from dduomq.errors import UnknownTopicOrPartition
from dduomq.log.settings import TopicSettings


@attrs.frozen
class TopicRoute:
    """A topic and the mailboxes of its partitions, by number."""

    record: TopicRecord
    settings: TopicSettings
    partitions: tuple[Mailbox, ...]


class Routes:
    """Where every partition is; `table` is swapped whole by the router. When it `is_closed`, nobody is in it."""

    __slots__ = ("_names", "_names_of", "is_closed", "table")

    def __init__(self) -> None:
        self.table: Mapping[str, TopicRoute] = {}
        self.is_closed = False
        self._names: Mapping[str, str] = {}
        self._names_of: Mapping[str, TopicRoute] = self.table

    def name_of(self, topic_id: str) -> str | None:
        """The name of the topic with that id; None if there is none."""
        if self._names_of is not self.table:
            self._names = {route.record.topic_id: name for name, route in self.table.items()}
            self._names_of = self.table
        return self._names.get(topic_id)

    def check_id(self, topic: str, topic_id: str | None) -> None:
        """Raises `UnknownTopicOrPartition` if another topic has the name now. None: whichever has it."""
        route = self.table.get(topic)
        if topic_id is not None and (route is None or route.record.topic_id != topic_id):
            raise UnknownTopicOrPartition(f"the topic {topic!r} that is meant has been deleted")

    def partition(self, topic: str, partition: int) -> Mailbox:
        """Raises `UnknownTopicOrPartition` that says which of the two is unknown."""
        route = self.table.get(topic)
        if route is None:
            raise UnknownTopicOrPartition(f"there is no topic {topic!r}; make it with 'dduomq topic create {topic}'")
        if not 0 <= partition < len(route.partitions):
            raise UnknownTopicOrPartition(
                f"topic {topic!r} has partitions 0 to {len(route.partitions) - 1}, not {partition}"
            )
        return route.partitions[partition]


@attrs.frozen(kw_only=True)
class TopicsSeen(Message):
    topics: tuple[tuple[TopicRecord, int], ...]


@attrs.frozen(kw_only=True)
class TopicSeen(Message):
    """`record` None: the topic is gone."""

    name: str
    record: TopicRecord | None
    version: int


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
    error: BaseException | None


@attrs.frozen
class RouterSetup:
    """What the router needs to make partitions."""

    world: PartitionWorld
    supervisor: Supervisor
    topics_directory: str
    leader_epoch: int
    clean: bool
    make_settings: Callable[[TopicRecord], TopicSettings]


class RouterActor(Actor):
    __slots__ = (
        "_awaiting", "_closing", "_deferred", "_disk", "_leaving", "_opening", "_routes", "_setup",
        "_versions", "_waiting_open",
    )  # fmt: skip
    HANDLERS: ClassVar[Mapping[type[Message], str]] = {
        TopicsSeen: "_on_topics_seen",
        TopicSeen: "_on_topic_seen",
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
        self._versions: dict[str, int] = {}
        self._opening: set[str] = set()
        self._leaving: dict[str, int] = {}
        self._deferred: dict[str, TopicSeen] = {}
        self._awaiting: list[AwaitTopic] = []
        self._waiting_open: list[AwaitOpen] = []
        self._closing: CloseAll | None = None

    # --- metadata -----------------------------------------------------------------------------------

    def _on_topics_seen(self, message: TopicsSeen) -> None:
        here = {record.name for record, _ in message.topics}
        for name in [name for name in self._routes.table if name not in here]:
            self._on_topic_seen(TopicSeen(name=name, record=None, version=self._versions.get(name, 0)))
        table = dict(self._routes.table)
        for record, version in message.topics:
            self._take(table, TopicSeen(name=record.name, record=record, version=version))
        self._routes.table = table

    def _on_topic_seen(self, message: TopicSeen) -> None:
        table = dict(self._routes.table)
        self._take(table, message)
        self._routes.table = table

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
        elif held is None:
            table[name] = self._create(record)
        else:
            table[name] = self._change(held, record)

    def _create(self, record: TopicRecord) -> TopicRoute:
        settings = self._setup.make_settings(record)
        return TopicRoute(
            record,
            settings,
            tuple(self._start(record, settings, at) for at in range(record.partitions)),
        )

    def _start(self, record: TopicRecord, settings: TopicSettings, at: int) -> Mailbox:
        setup = self._setup
        name = f"{record.name}-{at}"
        spec = PartitionSpec(
            record.name,
            at,
            record.topic_id,
            f"{setup.topics_directory}/{name}",
            settings,
            setup.leader_epoch,
            setup.clean,
        )
        mailbox = Mailbox(name)
        self._opening.add(name)
        opened = Opened(partition=name)
        lives = count()

        def make(box: Mailbox) -> PartitionActor:
            """One that comes after a crash may trust nothing, and has the settings of now."""
            route = self._routes.table.get(record.name)
            now = spec if not next(lives) else attrs.evolve(
                spec, clean=False, settings=settings if route is None else route.settings
            )  # fmt: skip
            return PartitionActor(box, now, setup.world, lambda _result: self.mailbox.post(opened))

        setup.supervisor.start(mailbox, make)
        setup.world.janitor.offer(Joined(partition=mailbox))
        return mailbox

    def _change(self, held: TopicRoute, record: TopicRecord) -> TopicRoute:
        settings = self._setup.make_settings(record)
        if settings != held.settings:
            for mailbox in held.partitions:
                mailbox.post(Configure(settings=settings))
        added = tuple(self._start(record, settings, at) for at in range(len(held.partitions), record.partitions))
        return TopicRoute(record, settings, held.partitions + added)

    # --- deleting -----------------------------------------------------------------------------------

    def _delete(self, route: TopicRoute) -> None:
        """Close the partitions, then take their directories away from the name, then remove them."""
        topic = route.record.name
        self._leaving[topic] = self._leaving.get(topic, 0) + len(route.partitions)
        for at, mailbox in enumerate(route.partitions):
            self._setup.world.janitor.offer(Left(partition=mailbox))
            self._opening.discard(mailbox.name)
            closed: Reply[None] = Reply(partial(self._closed, topic, route.record.topic_id, at))
            mailbox.post(Close(delete=True, reply=closed))

    def _closed(self, topic: str, topic_id: str, at: int, _value: None, _error: BaseException | None) -> None:
        files = self._setup.world.files
        directory = f"{self._setup.topics_directory}/{topic}-{at}"
        grave = f"{self._setup.topics_directory}/{topic_id}-{at}.deleted"

        def job() -> None:
            if files.exists(directory):
                files.rename(directory, grave)
                files.sync_dir(self._setup.topics_directory)
                files.remove_tree(grave)

        def done(result: object) -> None:
            error = result if isinstance(result, BaseException) else None
            self.mailbox.post(Removed(topic=topic, error=error))

        self._disk.submit(job, done)

    def _on_removed(self, message: Removed) -> None:
        if message.error is not None:
            self._setup.world.log.error("topic_files_left", topic=message.topic, reason=str(message.error))
        left = self._leaving.pop(message.topic) - 1
        if left:
            self._leaving[message.topic] = left
        elif message.topic in self._deferred:
            self._on_topic_seen(self._deferred.pop(message.topic))

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
        return not any(mailbox.name in self._opening for mailbox in route.partitions)

    def after_drain(self) -> None:
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
            for ready in opened:
                if ready.reply is not None:
                    ready.reply.set(None)

    # --- stopping -----------------------------------------------------------------------------------

    def _on_close_all(self, message: CloseAll) -> None:
        mailboxes = [mailbox for route in self._routes.table.values() for mailbox in route.partitions]
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
