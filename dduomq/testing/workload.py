"""What the clients of a simulation do: send in every way there is, read, make and delete topics, purge, repair.

Always true: a record's value is `sender:number`, unique in the run; a sender that has died never comes back
under its name; what a client is told goes into the history, and every event into the trace.
"""

from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from random import Random
from typing import Any

import attrs
import trio

from dduomq.client.client import Client, connect
from dduomq.client.conn import Dial
from dduomq.client.consumer import Reader, Start
from dduomq.client.record import Record, SendResult
from dduomq.errors import (
    CorruptMessage,
    DduomqError,
    OffsetOutOfRange,
    OutcomeUnknown,
    RequestTimedOut,
    StorageError,
    TopicAlreadyExists,
    UnknownTopicOrPartition,
)
from dduomq.testing.checker import Acked, Failed, History, Mark, Seen
from dduomq.testing.clock import SimClock
from dduomq.testing.network import SimNetwork

PORT = 6086
GROUPS_TOPIC = "__groups"
PAUSE_S = 0.05
COMPRESSIONS = ("none", "none", "lz4", "zstd")
LONG_LIFE_S = 3_600.0
IN_DOUBT = (OutcomeUnknown, RequestTimedOut, StorageError)  # a record may have been written before its log went offline
SEND_TIMEOUT_S = 20.0
REQUEST_TIMEOUT_S = 1.0


@attrs.define
class World:
    """What all clients share. `sending` turns false when the run's end has come.

    `bootstrap`: the addresses that clients begin with. `replication`: of the topics that are made, 0: the node's own.
    """

    rng: Random
    clock: SimClock
    network: SimNetwork
    history: History
    trace: Callable[..., None]
    partitions: int
    bootstrap: str = f"sim:{PORT}"
    replication: int = 0
    sending: bool = True
    sessions: int = 0

    def fork(self) -> Random:
        return Random(self.rng.random())

    def connect(self, name: str, dial: Dial | None = None) -> AbstractAsyncContextManager[Client]:
        rng = self.fork()
        return connect(
            self.bootstrap,
            client_id=name,
            dial=dial or self.network.dial_client,
            rng=rng,
            wall_ms=self.clock.wall_ms,
            delivery_timeout=SEND_TIMEOUT_S,
            request_timeout=REQUEST_TIMEOUT_S,
            compression=rng.choice(COMPRESSIONS),
        )

    @property
    def is_cluster(self) -> bool:
        """Whether there is more than one node: then who leads no more, and does not know yet, lags behind."""
        return "," in self.bootstrap

    @property
    def losses(self) -> int:
        return len(self.history.losses)


async def persist(act: Callable[[], Awaitable[object]], settled: type[DduomqError] | None = None) -> None:
    """Try again until it works, or until `settled` says that an earlier try has: the node may be away."""
    while True:
        try:
            await act()
            return
        except DduomqError as error:
            if settled is not None and isinstance(error, settled):
                return
            if not error.retriable:
                raise
            await trio.sleep(PAUSE_S)


class Sender:
    """Sends numbered records to one partition, now and then as a new process."""

    def __init__(self, world: World, name: str, topic: str, partition: int, *, pause_s: float) -> None:
        self._world = world
        self._base = name
        self._pause_s = pause_s
        self._name = name
        self._topic = topic
        self._partition = partition
        self._rng = world.fork()
        self._number = 0

    async def run(self) -> None:
        lives = 0
        while self._world.sending:
            lives += 1
            self._name, self._number = f"{self._base}.{lives}", 0
            life_s = self._rng.uniform(0.2, 2.0) if self._rng.random() < 0.3 else LONG_LIFE_S
            try:
                with trio.move_on_after(life_s):
                    await self._live()
            except DduomqError:
                await trio.sleep(PAUSE_S)

    async def _live(self) -> None:
        async with self._world.connect(self._name) as mq:
            while self._world.sending:
                await self._send_some(mq)
                if self._rng.random() < 0.5:
                    await trio.sleep(self._rng.uniform(0.0, self._pause_s))

    async def _send_some(self, mq: Client) -> None:
        kind = self._rng.random()
        if kind < 0.4:
            await self._send_one(mq, self._next())
        elif kind < 0.7:
            await self._send_in_a_row(mq, self._rng.randrange(2, 10))
        else:
            await self._send_batches(mq, self._rng.randrange(1, 5))

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _value(self, number: int) -> str:
        return f"{self._name}:{number}"

    async def _send_one(self, mq: Client, number: int) -> None:
        report = self._reporter([number])
        try:
            report(await mq.send(self._topic, self._value(number), partition=self._partition), None)
        except DduomqError as error:
            report(None, error)

    async def _send_in_a_row(self, mq: Client, count: int) -> None:
        """Hand them over one behind the other, then await all: their order must stay."""
        deliveries = []
        for _ in range(count):
            number = self._next()
            callback, value = self._reporter([number]), self._value(number)
            try:
                deliveries.append(await mq.send_async(self._topic, value, callback=callback, partition=self._partition))
            except DduomqError as error:
                callback(None, error)
        for delivery in deliveries:
            try:
                await delivery
            except DduomqError:
                continue  # its callback was told

    async def _send_batches(self, mq: Client, count: int) -> None:
        """Batches that are under way together: in any order, but each in one piece."""
        first = self._number + 1
        async with trio.open_nursery() as nursery:
            for _ in range(count):
                numbers = [self._next() for _ in range(self._rng.randrange(1, 5))]
                self._world.history.rounds.update({(self._name, number): first for number in numbers})
                nursery.start_soon(self._send_batch, mq, numbers)

    async def _send_batch(self, mq: Client, numbers: list[int]) -> None:
        report = self._reporter(numbers)
        try:
            values = [self._value(number) for number in numbers]
            report(await mq.send_batch(self._topic, values, partition=self._partition), None)
        except DduomqError as error:
            report(None, error)

    def _reporter(self, numbers: list[int]) -> Callable[[SendResult | None, DduomqError | None], None]:
        """What tells the history how the sending of these records has ended."""
        world, name, losses = self._world, self._name, self._world.losses

        def report(result: SendResult | None, error: DduomqError | None) -> None:
            if result is not None:
                world.trace("acked", name, numbers[0], result.offset)
                place, now = (self._topic, self._partition), trio.current_time()
                world.history.acked += [
                    Acked(*place, result.offset + at, name, number, losses, now, world.losses)
                    for at, number in enumerate(numbers)
                ]
            elif error is not None:
                world.trace("refused", name, numbers[0], error.code)
                if not isinstance(error, IN_DOUBT):
                    world.history.failed += [
                        Failed(self._topic, self._partition, name, number, error.code) for number in numbers
                    ]

        return report


class Follower:
    """Reads a topic: follows it from somewhere, in session after session."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self._world = world
        self._name = name
        self._topic = topic
        self._rng = world.fork()
        self._session = -1
        self._highest = 0

    async def run(self) -> None:
        while self._world.sending:
            try:
                with trio.move_on_after(self._rng.uniform(0.5, 3.0)):
                    await self._follow()
            except DduomqError:
                await trio.sleep(PAUSE_S)

    def _start(self) -> Start:
        kind = self._rng.random()
        if kind < 0.6:
            return "earliest"
        return "latest" if kind < 0.8 else self._rng.randrange(self._highest + 1)

    def _new_session(self) -> None:
        self._world.sessions += 1
        self._session = self._world.sessions

    async def _follow(self) -> None:
        self._new_session()
        isolation = self._rng.choice(("committed", "uncommitted"))
        size = self._rng.choice((100, 2_000, 1_000_000))
        async with (
            self._world.connect(self._name) as mq,
            mq.reader(self._topic, start=self._start(), wait=0.2, isolation=isolation, max_bytes=size) as reader,
        ):
            while self._world.sending:
                losses = self._world.losses
                try:
                    records = await reader.fetch()
                except CorruptMessage:
                    await self._pass_damage(mq, reader)
                    continue
                if losses == self._world.losses:
                    self._note(reader, records)

    async def _pass_damage(self, mq: Client, reader: Reader) -> None:
        """Go on behind the offset that is not served."""
        self._new_session()
        for partition in range(self._world.partitions):
            at = reader.position(partition)
            try:
                await mq.pull(self._topic, partition=partition, offset=at, wait=0.0)
            except CorruptMessage:
                self._world.trace("damage", self._topic, partition, at)
                reader.seek(partition, at + 1)

    def _note(self, reader: Reader, records: list[Record]) -> None:
        world, losses, now = self._world, self._world.losses, trio.current_time()
        for record in records:
            value = record.value.decode()
            world.trace("read", self._topic, record.partition, record.offset, value)
            world.history.seen.append(
                Seen(self._topic, record.partition, record.offset, value, losses, now, self._session)
            )
            self._highest = max(self._highest, record.offset)
        for partition, mark in sorted(reader.high_watermarks.items()):
            session = self._session if world.is_cluster else -1
            world.history.marks.append(Mark(self._topic, partition, mark, losses, session))


class Operator:
    """Makes and deletes topics, purges logs, brings those back that went offline."""

    def __init__(self, world: World, topics: tuple[str, ...]) -> None:
        self._world = world
        self._topics = topics
        self._rng = world.fork()
        self._made = 0

    async def make(self, name: str, config: dict[str, str]) -> None:
        history = self._world.history
        history.topics_unsure.add(name)

        async def create() -> None:
            async with self._world.connect("admin") as mq:
                await mq.admin.create_topic(
                    name, partitions=self._world.partitions, replication=self._world.replication, config=config
                )

        await persist(create, TopicAlreadyExists)
        self._world.trace("made", name)
        history.topics_made.add(name)
        history.topics_unsure.discard(name)

    async def delete(self, name: str) -> None:
        history = self._world.history
        history.topics_unsure.add(name)

        async def delete() -> None:
            async with self._world.connect("admin") as mq:
                await mq.admin.delete_topic(name)

        await persist(delete, UnknownTopicOrPartition)
        self._world.trace("deleted", name)
        history.topics_gone.add(name)

    async def run(self) -> None:
        while self._world.sending:
            await trio.sleep(self._rng.uniform(0.1, 1.0))
            try:
                with trio.move_on_after(5.0):
                    await self._do_something()
            except DduomqError as error:
                self._world.trace("operator", error.code)

    async def _do_something(self) -> None:
        kind = self._rng.random()
        made = self._world.history.topics_made - self._world.history.topics_gone - set(self._topics)
        if kind < 0.3:
            self._made += 1
            await self.make(f"passing-{self._made}", {})
        elif kind < 0.45 and made:
            await self.delete(min(made))
        elif kind < 0.55:
            await self._purge()
        else:
            await self._repair()

    async def _purge(self) -> None:
        topic, partition = self._rng.choice(self._topics), self._rng.randrange(self._world.partitions)
        async with self._world.connect("admin") as mq:
            start = await mq.admin.offset(topic, partition, "earliest")
            end = await mq.admin.offset(topic, partition, "latest")
            before = start + (end - start) // 3
            done, asked = self._world.history.purged.get((topic, partition), (0, 0))
            self._world.history.purged[topic, partition] = (done, max(asked, before))
            try:
                purged: dict[int, int] = await mq.admin.purge(topic, partition, before)
            except OffsetOutOfRange:  # a power loss has taken the records in between
                return
            self._world.trace("purged", topic, partition, purged[partition])
            asked = self._world.history.purged[topic, partition][1]
            self._world.history.purged[topic, partition] = (purged[partition], asked)

    async def _repair(self) -> None:
        async with self._world.connect("admin") as mq:
            topic = self._rng.choice(self._topics)
            for name in (topic, GROUPS_TOPIC):
                await self._restore(mq, name)

    async def _restore(self, mq: Client, topic: str) -> None:
        described: Any = await mq.admin.describe_topic(topic)
        for part in described.partitions:
            if part.state not in {"online", "opening", "closing"}:
                self._world.trace("restoring", topic, part.partition)
                await mq.admin.restore_log(topic, part.partition)
