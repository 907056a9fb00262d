"""Which coordinator a group has, whichever door the question comes through.

Not a task of its own. Always true: a group belongs to one partition of `__groups` as long as the cluster lives; the
topic is made when the first group comes, and its coordinators run from then on.
"""

import zlib

import attrs
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin
from dduomq.actors.coordinator import CoordinatorActor
from dduomq.actors.coordinator_table import CoordinatorWorld
from dduomq.actors.supervisor import Supervisor
from dduomq.errors import TopicAlreadyExists
from dduomq.limits import BATCH_BYTES_CEILING, GROUPS_PARTITIONS

GROUPS_TOPIC = "__groups"
CONFIG = {
    "durability": "fsync",
    "max.message.bytes": str(BATCH_BYTES_CEILING),
    "retention.ms": "-1",
    "segment.bytes": str(32 * 1024 * 1024),
}


@attrs.define
class Groups:
    """The way to the coordinators."""

    _admin: Admin
    _supervisor: Supervisor
    _world: CoordinatorWorld
    _mailboxes: tuple[Mailbox, ...] = ()
    _lock: trio.Lock = attrs.field(factory=trio.Lock)

    def start(self) -> None:
        """Run the coordinators, if there have ever been groups."""
        route = self._world.routes.table.get(GROUPS_TOPIC)
        if route is None or self._mailboxes:
            return
        mailboxes = []
        for at, partition in enumerate(route.partitions):
            mailbox = Mailbox(f"groups-{at}")
            self._run(mailbox, partition)
            mailboxes.append(mailbox)
        self._mailboxes = tuple(mailboxes)

    def _run(self, mailbox: Mailbox, partition: Mailbox) -> None:
        self._supervisor.start(mailbox, lambda box: CoordinatorActor(box, partition, self._world))

    async def coordinator(self, group: str) -> Mailbox:
        """The mailbox of the group's coordinator."""
        mailboxes = await self.all()
        return mailboxes[zlib.crc32(group.encode()) % len(mailboxes)]

    async def all(self) -> tuple[Mailbox, ...]:
        """All coordinators; the topic is made if there is none."""
        if not self._mailboxes:
            async with self._lock:
                await self._make()
        return self._mailboxes

    async def _make(self) -> None:
        if GROUPS_TOPIC not in self._world.routes.table:
            try:
                await self._admin.create_topic(GROUPS_TOPIC, partitions=GROUPS_PARTITIONS, config=CONFIG, internal=True)
            except TopicAlreadyExists:
                await self._admin.wait_for(GROUPS_TOPIC)
        self.start()
