"""Senders of delayed messages in a simulation: they send, take back, and give another time.

Always true: a message's value is unique in the run; what its sender was told of it goes into the history.
"""

import trio

from dduomq.client.client import Client
from dduomq.errors import DduomqError, DelayedNotFound, TopicAlreadyExists, WheelNotAvailable
from dduomq.testing.delay_checker import Delayed, Fate
from dduomq.testing.workload import IN_DOUBT, PAUSE_S, World, persist

LATER = "later"
DELAY_MAX_MS = 4_000
FAR_MS = 20 * 60_000


class Delayer:
    """One sender to one partition of `LATER`."""

    def __init__(self, world: World, name: str, partition: int) -> None:
        self._world = world
        self._name = name
        self._partition = partition
        self._rng = world.fork()
        self._number = 0

    async def run(self) -> None:
        while self._world.sending:
            try:
                with trio.move_on_after(self._rng.uniform(0.5, 3.0)):
                    async with self._world.connect(self._name) as mq:
                        while self._world.sending:
                            await self._send(mq)
            except DduomqError:
                await trio.sleep(PAUSE_S)

    async def _send(self, mq: Client) -> None:
        world, rng = self._world, self._rng
        self._number += 1
        value = f"{self._name}:{self._number}"
        wait_ms = rng.randrange(DELAY_MAX_MS) if rng.random() < 0.8 else rng.randrange(FAR_MS)
        message = world.history.delayed[value] = Delayed(value, world.clock.wall_ms() + wait_ms)
        try:
            sent = await mq.send(LATER, value, deliver_at=message.due_ms, partition=self._partition)
        except (*IN_DOUBT, WheelNotAvailable):
            return
        except DduomqError as error:
            world.trace("delay refused", value, error.code)
            message.fate = Fate.REFUSED
            return
        world.trace("delayed", value, sent.offset)
        message.fate = Fate.ACKED
        assert sent.delay_id is not None
        kind = rng.random()
        if kind < 0.2:
            await self._cancel(mq, message, sent.delay_id)
        elif kind < 0.4:
            await self._reschedule(mq, message, sent.delay_id)
        await trio.sleep(rng.uniform(0.0, 0.2))

    async def _cancel(self, mq: Client, message: Delayed, delay_id: str) -> None:
        """While nobody knows whether that has happened, it may come or not."""
        message.fate = Fate.IN_DOUBT
        try:
            await mq.admin.cancel_delayed(delay_id)
        except DelayedNotFound:
            return  # it has come, or an earlier try of this very question has taken it out
        self._world.trace("cancelled", message.value)
        message.fate = Fate.CANCELLED

    async def _reschedule(self, mq: Client, message: Delayed, delay_id: str) -> None:
        """Sooner or later; in doubt, the earlier of the two times counts."""
        before, now = message.due_ms, self._world.clock.wall_ms() + self._rng.randrange(DELAY_MAX_MS)
        message.due_ms = min(before, now)
        try:
            await mq.admin.reschedule(delay_id, deliver_at=now)
        except DelayedNotFound:
            return
        self._world.trace("rescheduled", message.value)
        message.due_ms = now


async def make_later(world: World) -> None:
    """The topic of all delayed messages."""

    async def create() -> None:
        async with world.connect("admin") as mq:
            await mq.admin.create_topic(LATER, partitions=world.partitions, replication=world.replication)

    await persist(create, TopicAlreadyExists)
