"""Which wheel keeps a partition's delayed messages, whichever door they come through.

Not a task of its own. Always true: the messages for one partition are kept by one wheel, so that a batch that comes
again is known again.
"""

import zlib
from collections.abc import Callable

import structlog

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin
from dduomq.actors.alarms import Alarms
from dduomq.actors.internal_topic import InternalTopic
from dduomq.actors.router import Routes
from dduomq.actors.supervisor import Supervisor
from dduomq.actors.wheel import WheelActor
from dduomq.actors.wheel_sending import WheelWorld
from dduomq.errors import DduomqError, DelayedNotFound, TopicAlreadyExists
from dduomq.limits import BATCH_BYTES_CEILING, DELAY_PARTITIONS
from dduomq.ports import Clock

DELAY_TOPIC = "__delay"
DEAD_LETTERS_RETENTION_MS = 30 * 24 * 3_600_000
DEAD_LETTERS = {"max.message.bytes": str(BATCH_BYTES_CEILING), "retention.ms": str(DEAD_LETTERS_RETENTION_MS)}


class Delays:
    """The way to the wheels. `background(function)` runs a coroutine function beside everything else."""

    __slots__ = ("_admin", "_background", "_log", "_making", "_topic")

    def __init__(
        self,
        admin: Admin,
        supervisor: Supervisor,
        clock: Clock,
        disk: Mailbox,
        alarms: Alarms,
        routes: Routes,
        log: structlog.stdlib.BoundLogger,
        background: Callable[..., None],
    ) -> None:
        world = WheelWorld(clock, disk, routes, log, alarms.wake, self._make_topic)

        def run(at: int, partition: Mailbox) -> Mailbox:
            mailbox = Mailbox(f"delay-{at}")
            supervisor.start(mailbox, lambda box: WheelActor(box, at, partition, world))
            return mailbox

        self._admin = admin
        self._log = log
        self._background = background
        self._making: set[str] = set()
        self._topic = InternalTopic(DELAY_TOPIC, DELAY_PARTITIONS, admin, routes, run)

    def start(self) -> None:
        """Run the wheels, if anything has ever been delayed."""
        self._topic.start()

    @property
    def wheels(self) -> tuple[Mailbox, ...]:
        """The wheels that run; none if nothing has ever been delayed."""
        return self._topic.running

    async def wheel(self, topic_id: str, partition: int) -> tuple[int, Mailbox]:
        """The wheel of a partition, and its number."""
        wheels = await self._topic.actors()
        number = zlib.crc32(f"{topic_id}-{partition}".encode()) % len(wheels)
        return number, wheels[number]

    async def schedule_wheel(self, name: str) -> Mailbox:
        """The wheel that keeps the schedule of that name."""
        wheels = await self._topic.actors()
        return wheels[zlib.crc32(name.encode()) % len(wheels)]

    def by_number(self, number: int) -> Mailbox:
        """Raises `DelayedNotFound` if there is no such wheel."""
        if not 0 <= number < len(self.wheels):
            raise DelayedNotFound("no message with this id waits")
        return self.wheels[number]

    def _make_topic(self, name: str) -> None:
        if name not in self._making:
            self._making.add(name)
            self._background(self._made, name)

    async def _made(self, name: str) -> None:
        try:
            await self._admin.create_topic(name, config=DEAD_LETTERS)
        except TopicAlreadyExists:
            await self._admin.wait_for(name)
        except DduomqError as error:
            self._log.warning("dead_letters_not_made", topic=name, reason=error.message)
        finally:
            self._making.discard(name)
