"""Which coordinator a group has, whichever door the question comes through.

Not a task of its own. Always true: a group belongs to one partition of `__groups` as long as the cluster lives.
"""

import zlib

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin
from dduomq.actors.coordinator import CoordinatorActor
from dduomq.actors.coordinator_table import CoordinatorWorld
from dduomq.actors.internal_topic import InternalTopic
from dduomq.actors.supervisor import Supervisor
from dduomq.limits import GROUPS_PARTITIONS

GROUPS_TOPIC = "__groups"


class Groups:
    """The way to the coordinators."""

    __slots__ = ("_topic",)

    def __init__(self, admin: Admin, supervisor: Supervisor, world: CoordinatorWorld) -> None:
        def run(at: int, partition: Mailbox) -> Mailbox:
            mailbox = Mailbox(f"groups-{at}")
            supervisor.start(mailbox, lambda box: CoordinatorActor(box, at, partition, world))
            return mailbox

        self._topic = InternalTopic(GROUPS_TOPIC, GROUPS_PARTITIONS, admin, world.routes, run)

    def start(self) -> None:
        """Run the coordinators, if there have ever been groups."""
        self._topic.start()

    async def coordinator(self, group: str) -> Mailbox:
        """The mailbox of the group's coordinator."""
        mailboxes = await self.all()
        return mailboxes[zlib.crc32(group.encode()) % len(mailboxes)]

    async def all(self) -> tuple[Mailbox, ...]:
        """All coordinators; the topic is made if there is none."""
        return await self._topic.actors()
