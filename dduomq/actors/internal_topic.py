"""A topic of the broker's own, and the actors that live on its partitions.

Not a task of its own. Always true: the topic is made when it is first needed, and its actors, one for each partition,
run from then on, and from every start on.
"""

from collections.abc import Callable, Mapping

import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin
from dduomq.actors.router import Routes
from dduomq.errors import TopicAlreadyExists
from dduomq.limits import BATCH_BYTES_CEILING, MIB

CONFIG: Mapping[str, str] = {
    "durability": "fsync",
    "max.message.bytes": str(BATCH_BYTES_CEILING),
    "retention.ms": "-1",
    "segment.bytes": str(32 * MIB),
}


class InternalTopic:
    """`run(number, partition)` starts the actor on a partition, and gives its mailbox."""

    __slots__ = ("_admin", "_lock", "_mailboxes", "_name", "_partitions", "_routes", "_run")

    def __init__(
        self, name: str, partitions: int, admin: Admin, routes: Routes, run: Callable[[int, Mailbox], Mailbox]
    ) -> None:
        self._name = name
        self._partitions = partitions
        self._admin = admin
        self._routes = routes
        self._run = run
        self._mailboxes: tuple[Mailbox, ...] = ()
        self._lock = trio.Lock()

    def start(self) -> None:
        """Run the actors, if the topic has ever been needed."""
        route = self._routes.table.get(self._name)
        if route is not None and not self._mailboxes:
            self._mailboxes = tuple(self._run(at, partition) for at, partition in enumerate(route.partitions))

    @property
    def running(self) -> tuple[Mailbox, ...]:
        """The actors that run; none if the topic was never needed."""
        return self._mailboxes

    async def actors(self) -> tuple[Mailbox, ...]:
        """All of them; the topic is made if there is none."""
        if not self._mailboxes:
            async with self._lock:
                await self._make()
        return self._mailboxes

    async def _make(self) -> None:
        if self._name not in self._routes.table:
            try:
                await self._admin.create_topic(
                    self._name, partitions=self._partitions, config=dict(CONFIG), internal=True
                )
            except TopicAlreadyExists:
                await self._admin.wait_for(self._name)
        self.start()
