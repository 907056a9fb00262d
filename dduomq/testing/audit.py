"""What is looked at when the faults of a run are over: all must be there again, and be worked off.

Always true: it only waits, for ever if need be; whoever calls it sets the time to heal.
"""

from collections.abc import Callable
from functools import partial

import trio

from dduomq.client.client import Client
from dduomq.errors import CorruptMessage, UnknownTopicOrPartition
from dduomq.limits import GROUPS_PARTITIONS
from dduomq.testing.delay_checker import Arrived
from dduomq.testing.delayers import LATER
from dduomq.testing.group_checker import Place
from dduomq.testing.queue_workers import QUEUE_GROUP, QueueWorker
from dduomq.testing.workers import WATCH_S, Watcher, Worker
from dduomq.testing.workload import World, persist


class Audit:
    """Of the topics that the senders sent to; the first is also the group's and the queue's."""

    def __init__(self, world: World, topics: tuple[str, ...]) -> None:
        self._world = world
        self._history = world.history
        self._topics = topics
        self._count = 0

    async def records(self) -> None:
        """Faults are over: everything must be readable, and new records must be taken."""
        async with self._world.connect("auditor") as mq:
            self._history.topics = {topic.name for topic in await mq.admin.list_topics()}
            for topic in self._topics:
                for partition in range(self._world.partitions):
                    await persist(partial(mq.admin.restore_log, topic, partition))
                    await self._partition(mq, topic, partition)

    async def group(self) -> None:
        """Its log is brought back, its members come back, and everything is worked on to its end."""
        async with self._world.connect("auditor") as mq:
            for partition in range(GROUPS_PARTITIONS):
                await persist(partial(mq.admin.restore_log, "__groups", partition))
            worker = Worker(self._world, "last", self._topics[0])
            ends = await self._ends(mq)
            watcher = Watcher(self._world)

            async with trio.open_nursery() as nursery:
                nursery.start_soon(worker.work, lambda: False)
                while True:
                    await trio.sleep(WATCH_S)
                    offsets = await watcher.look(mq)
                    if all(offsets.get(place, 0) >= end for place, end in ends.items()):
                        break
                nursery.cancel_scope.cancel()
            self._history.group_ends = offsets

    async def _ends(self, mq: Client) -> dict[Place, int]:
        topic = self._topics[0]
        return {(topic, at): await mq.admin.offset(topic, at, "latest") for at in range(self._world.partitions)}

    async def queue(self) -> None:
        """Its members come back, and everything is done to its end."""
        async with self._world.connect("auditor") as mq, trio.open_nursery() as nursery:
            ends = await self._ends(mq)
            nursery.start_soon(QueueWorker(self._world, "last-q", self._topics[0]).work, lambda: False)
            while True:
                await trio.sleep(WATCH_S)
                parts = await mq.admin.queue_parts(QUEUE_GROUP)
                if all(place in parts and parts[place].start >= end for place, end in ends.items()):
                    break
            nursery.cancel_scope.cancel()
        self._history.queue_ends = {place: part.start for place, part in parts.items()}

    async def delays(self, jump: Callable[[], None]) -> None:
        """The wheels' logs are brought back, and whatever still waits comes: `jump` lets all its times pass."""
        async with self._world.connect("auditor") as mq:
            for topic in await mq.admin.list_topics():  # those of dead letters among them
                for partition in range(len(topic.partitions)):
                    await persist(partial(mq.admin.restore_log, topic.name, partition), UnknownTopicOrPartition)
            jump()
            while await mq.admin.count_delayed():  # noqa: ASYNC110  # it is seen from outside
                await trio.sleep(WATCH_S)
            self._history.arrived = [one for at in range(self._world.partitions) for one in await self._arrived(mq, at)]

    async def _arrived(self, mq: Client, partition: int) -> list[Arrived]:
        found: list[Arrived] = []
        await mq.send(LATER, "end", partition=partition)
        async with mq.reader(LATER, partitions=[partition]) as reader:
            async for record in reader:
                if record.value == b"end":
                    return found
                until = int(record.header("dduomq-delayed-until") or 0)
                found.append(Arrived(record.value.decode(), until, record.timestamp_ms))
        raise AssertionError("a reader has no end")

    async def _partition(self, mq: Client, topic: str, partition: int) -> None:
        place = (topic, partition)
        self._count += 1
        await mq.send(topic, f"end:{self._count}", partition=partition)
        self._history.starts[place] = await mq.admin.offset(topic, partition, "earliest")
        end = await mq.admin.offset(topic, partition, "latest")
        found = self._history.final[place] = []
        refused = self._history.refused[place] = set()
        async with mq.reader(topic, partitions=[partition]) as reader:
            while (at := reader.position(partition)) < end:
                try:
                    found += [(record.offset, record.value.decode()) for record in await reader.fetch()]
                except CorruptMessage:
                    refused.add(at)
                    reader.seek(partition, at + 1)
