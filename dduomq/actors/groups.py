"""Which coordinator a group has, whichever door the question comes through.

Not a task of its own. Always true: a group belongs to one partition of `__groups` as long as the cluster lives; it is
coordinated by the node that leads that.
"""

import zlib
from collections.abc import Callable

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin
from dduomq.actors.coordinator import CoordinatorActor
from dduomq.actors.coordinator_table import CoordinatorWorld
from dduomq.actors.internal_topic import InternalTopic, Kind
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import NO_LEADER
from dduomq.errors import CoordinatorNotAvailable, NotCoordinator
from dduomq.limits import GROUPS_PARTITIONS

GROUPS_TOPIC = "__groups"


class Groups:
    """The way to the coordinators. `open_door(number)` leads to one that may be on another node."""

    __slots__ = ("_topic",)

    def __init__(
        self, admin: Admin, supervisor: Supervisor, world: CoordinatorWorld, open_door: Callable[[int], Mailbox] | None
    ) -> None:
        def run(at: int, partition: Mailbox) -> Mailbox:
            mailbox = Mailbox(f"groups-{at}")
            supervisor.start(mailbox, lambda box: CoordinatorActor(box, at, partition, world))
            return mailbox

        kind = Kind(GROUPS_TOPIC, GROUPS_PARTITIONS, run, open_door or self._alone, NotCoordinator)
        self._topic = InternalTopic(kind, admin, world.routes)

    def _alone(self, number: int) -> Mailbox:
        here = self._topic.here(number)
        assert here is not None
        return here

    def follow(self) -> None:
        """Run the coordinators of what is led here. To be called whenever the routes have changed."""
        self._topic.follow()

    async def leader(self, group: str) -> int:
        """The node that coordinates the group. Raises `CoordinatorNotAvailable` while none does."""
        node = self._topic.leader(await self._number(group))
        if node == NO_LEADER:
            raise CoordinatorNotAvailable(f"nobody coordinates the group {group!r} at the moment; try again")
        return node

    async def _number(self, group: str) -> int:
        return zlib.crc32(group.encode()) % len(await self._topic.all())

    async def coordinator(self, group: str) -> Mailbox:
        """The mailbox of the group's coordinator. Raises `NotCoordinator` if that is not here."""
        here = self._topic.here(await self._number(group))
        if here is None:
            raise NotCoordinator(f"node {await self.leader(group)} coordinates the group {group!r}; ask there")
        return here

    async def anywhere(self, group: str) -> Mailbox:
        """The way to the group's coordinator, wherever that is."""
        return (await self._topic.all())[await self._number(group)]

    async def all(self) -> tuple[Mailbox, ...]:
        """The ways to all coordinators; the topic is made if there is none."""
        return await self._topic.all()

    async def here(self) -> tuple[Mailbox, ...]:
        """The coordinators of this node."""
        found = map(self._topic.here, range(len(await self._topic.all())))
        return tuple(mailbox for mailbox in found if mailbox is not None)

    def where(self, number: int) -> Mailbox | int | None:
        """A coordinator, or the node that has it."""
        return self._topic.where(number)
