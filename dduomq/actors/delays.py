"""Which wheel keeps a partition's delayed messages, whichever door they come through, and on which node it is.

Not a task of its own. Always true: the messages for one partition are kept by one wheel, so that a batch that comes
again is known again.
"""

import zlib
from collections.abc import Callable

import structlog

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin
from dduomq.actors.alarms import Alarms
from dduomq.actors.group_topics import GroupTopics
from dduomq.actors.internal_topic import InternalTopic, Kind
from dduomq.actors.routes import Routes
from dduomq.actors.supervisor import Supervisor
from dduomq.actors.wheel import WheelActor
from dduomq.actors.wheel_sending import WheelWorld
from dduomq.errors import DduomqError, DelayedNotFound, WheelNotAvailable
from dduomq.limits import DELAY_PARTITIONS
from dduomq.ports import Clock

DELAY_TOPIC = "__delay"


class Delays:
    """The way to the wheels."""

    __slots__ = ("_background", "_is_making", "_log", "_topic")

    def __init__(
        self,
        admin: Admin,
        supervisor: Supervisor,
        clock: Clock,
        disk: Mailbox,
        alarms: Alarms,
        routes: Routes,
        topics: GroupTopics,
        log: structlog.stdlib.BoundLogger,
        background: Callable[..., None],
        open_door: Callable[[int], Mailbox] | None,
    ) -> None:
        world = WheelWorld(clock, disk, routes, log, alarms.wake, topics)

        def run(at: int, partition: Mailbox) -> Mailbox:
            mailbox = Mailbox(f"delay-{at}")
            supervisor.start(mailbox, lambda box: WheelActor(box, at, partition, world))
            return mailbox

        self._background = background
        self._is_making = False
        self._log = log
        kind = Kind(DELAY_TOPIC, DELAY_PARTITIONS, run, open_door or self._alone, WheelNotAvailable)
        self._topic = InternalTopic(kind, admin, routes)

    def _alone(self, number: int) -> Mailbox:
        here = self._topic.here(number)
        assert here is not None
        return here

    def follow(self) -> None:
        """Run the wheels of what is led here. To be called whenever the routes have changed."""
        self._topic.follow()

    def where(self, number: int) -> Mailbox | int | None:
        """A wheel, or the node that has it."""
        return self._topic.where(number)

    @property
    def wheels(self) -> tuple[Mailbox, ...]:
        """The ways to the wheels; none if nothing has ever been delayed."""
        return self._topic.doors

    async def wheel(self, topic_id: str, partition: int) -> tuple[int, Mailbox]:
        """The wheel of a partition, and its number."""
        wheels = await self._topic.all()
        number = _number(topic_id, partition, len(wheels))
        return number, wheels[number]

    def wheel_now(self, topic_id: str, partition: int) -> Mailbox | None:
        """The same for those that can't wait: None until the wheels run, which this sees to."""
        wheels = self._topic.doors
        if wheels:
            return wheels[_number(topic_id, partition, len(wheels))]
        if not self._is_making:
            self._is_making = True
            self._background(self._make)
        return None

    async def _make(self) -> None:
        try:
            await self._topic.all()
        except DduomqError as error:
            self._log.warning("wheels_not_made", reason=error.message)
        finally:
            self._is_making = False

    async def schedule_wheel(self, name: str) -> Mailbox:
        """The wheel that keeps the schedule of that name."""
        wheels = await self._topic.all()
        return wheels[zlib.crc32(name.encode()) % len(wheels)]

    def by_number(self, number: int) -> Mailbox:
        """Raises `DelayedNotFound` if there is no such wheel."""
        if not 0 <= number < len(self.wheels):
            raise DelayedNotFound("no message with this id waits")
        return self.wheels[number]


def _number(topic_id: str, partition: int, wheels: int) -> int:
    return zlib.crc32(f"{topic_id}-{partition}".encode()) % wheels
