"""A topic of the broker's own, and the actors that live on its partitions, each where its partition is led.

Not a task of its own. Always true: the topic is made when it is first needed; a partition's actor runs on the node that
leads it, from the leadership's first moment to its end, and another leadership has another actor, which reads the log
anew: meanwhile the log may have been cut.
"""

from collections.abc import Callable, Mapping

import attrs
import trio

from dduomq.actors.actor import Mailbox, Resign
from dduomq.actors.admin import Admin
from dduomq.actors.routes import Routes
from dduomq.cluster.image import NO_LEADER
from dduomq.errors import DduomqError, TopicAlreadyExists
from dduomq.limits import BATCH_BYTES_CEILING, MIB

CONFIG: Mapping[str, str] = {
    "durability": "fsync",
    "max.message.bytes": str(BATCH_BYTES_CEILING),
    "retention.ms": "-1",
    "segment.bytes": str(32 * MIB),
}


@attrs.frozen
class Running:
    """The actor of one leadership."""

    leader_epoch: int
    mailbox: Mailbox


@attrs.frozen
class Kind:
    """What lives on the topic: `run(number, partition)` starts the actor of a partition that is led here, and gives its
    mailbox; `open_door(number)` leads to the actor wherever it is; `moved` is said to whoever waits when it goes.
    """

    topic: str
    partitions: int
    run: Callable[[int, Mailbox], Mailbox]
    open_door: Callable[[int], Mailbox]
    moved: type[DduomqError]


class InternalTopic:
    """`follow` is to be called whenever the routes have changed."""

    __slots__ = ("_admin", "_doors", "_kind", "_lock", "_routes", "_running")

    def __init__(self, kind: Kind, admin: Admin, routes: Routes) -> None:
        self._kind = kind
        self._admin = admin
        self._routes = routes
        self._running: dict[int, Running] = {}
        self._doors: tuple[Mailbox, ...] = ()
        self._lock = trio.Lock()

    def follow(self) -> None:
        """Run the actors of what is led here now, and no others."""
        route = self._routes.table.get(self._kind.topic)
        if route is None or self._routes.is_closed:
            return
        for record in route.records:
            at, held = record.partition, self._running.get(record.partition)
            is_here = record.leader == self._routes.node_id
            if held is not None and not (is_here and held.leader_epoch == record.leader_epoch):
                held.mailbox.post(Resign(error=self._kind.moved()))
                del self._running[at]
                held = None
            if is_here and held is None:
                self._running[at] = Running(record.leader_epoch, self._kind.run(at, route.partitions[at]))
        if len(self._doors) < len(route.records):
            self._doors = tuple(map(self._kind.open_door, range(len(route.records))))

    def here(self, number: int) -> Mailbox | None:
        """The actor, if it runs on this node."""
        running = self._running.get(number)
        return None if running is None else running.mailbox

    def where(self, number: int) -> Mailbox | int | None:
        """The actor, or the node that has it, or None while nobody has."""
        running = self._running.get(number)
        if running is not None:
            return running.mailbox
        leader = self.leader(number)
        return None if leader in {NO_LEADER, self._routes.node_id} else leader

    def leader(self, number: int) -> int:
        """The node that has the actor; `NO_LEADER` while none has."""
        route = self._routes.table.get(self._kind.topic)
        return NO_LEADER if route is None or number >= len(route.records) else route.records[number].leader

    @property
    def doors(self) -> tuple[Mailbox, ...]:
        """The ways to all of them; none if the topic was never needed."""
        return self._doors

    async def all(self) -> tuple[Mailbox, ...]:
        """The ways to all of them; the topic is made if there is none."""
        if not self._doors:
            async with self._lock:
                await self._make()
        return self._doors

    async def _make(self) -> None:
        if self._kind.topic not in self._routes.table:
            try:
                await self._admin.create_topic(
                    self._kind.topic, partitions=self._kind.partitions, config=dict(CONFIG), internal=True
                )
            except TopicAlreadyExists:
                await self._admin.wait_for(self._kind.topic)
        self.follow()
