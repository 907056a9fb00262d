"""Members of a group in a simulation: they work, stall, crash, leave, and come in hordes.

Always true: what a worker owns, has done, and was told is committed goes into the history with its time; a worker
that has crashed says nothing more, to nobody.
"""

from collections.abc import Callable
from random import Random
from typing import Protocol

import trio

from dduomq.actors.nursery import open_flat_nursery
from dduomq.client.client import Client
from dduomq.client.conn import Transport
from dduomq.client.group import Consumer
from dduomq.errors import DduomqError
from dduomq.testing.group_checker import Owned, Place
from dduomq.testing.workload import PAUSE_S, World
from dduomq.wire.native_groups import CommitOffsets, CommitPart

GROUP = "workers"
SESSION_S = 2.0
REBALANCE_S = 2.0
WORK_MAX_S = 0.03
STALL_MAX_S = 5.0
WATCH_S = 0.3


class Shaky(Protocol):
    """Whoever may stall until some time, or be gone."""

    silent_until: float
    is_dead: bool


class Unsteady:
    """A connection whose owner may fall silent, or be gone."""

    def __init__(self, transport: Transport, worker: "Shaky") -> None:
        self._transport = transport
        self._worker = worker

    async def _ready(self) -> None:
        await trio.sleep_until(self._worker.silent_until)
        if self._worker.is_dead:
            raise ConnectionResetError("this process is no more")

    async def send(self, data: bytes) -> None:
        await self._ready()
        await self._transport.send(data)

    async def receive(self, max_bytes: int) -> bytes:
        data = await self._transport.receive(max_bytes)
        await self._ready()
        return data

    async def aclose(self) -> None:
        await self._transport.aclose()


class Worker:
    """Works on one topic as a member of the group, life after life."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self._world = world
        self._name = name
        self._topic = topic
        self._rng: Random = world.fork()
        self._owned: dict[Place, Owned] = {}
        self.silent_until = 0.0
        self.is_dead = False

    async def run(self) -> None:
        while self._world.sending:
            try:
                await self._live()
            except (DduomqError, OSError) as error:
                self._world.trace("worker", self._name, type(error).__name__)
            self._disown(list(self._owned))
            await trio.sleep(self._rng.uniform(0.0, 0.5))

    async def _live(self) -> None:
        """One life: it ends in good order, or by a crash."""
        self.is_dead, self.silent_until = False, 0.0
        with trio.move_on_after(self._rng.uniform(0.5, 4.0)) as scope:
            async with open_flat_nursery() as nursery:
                nursery.start_soon(self._be_unsteady, scope.cancel)
                await self.work(lambda: not self._world.sending)
                nursery.cancel_scope.cancel()

    async def _be_unsteady(self, end: Callable[[], None]) -> None:
        while True:
            await trio.sleep(self._rng.uniform(0.2, 3.0))
            kind = self._rng.random()
            if kind < 0.3:
                self._world.trace("stalls", self._name)
                self.silent_until = trio.current_time() + self._rng.uniform(0.1, STALL_MAX_S)
            elif kind < 0.5:
                self._world.trace("crashes", self._name)
                self.is_dead = True
                self._disown(list(self._owned))
                end()

    async def work(self, is_over: Callable[[], bool]) -> None:
        """Until it is over, or the consumer fails."""
        async with (
            self._world.connect(self._name, dial=self._dial) as mq,
            mq.consumer(
                self._topic, group=GROUP, session_timeout=SESSION_S, rebalance_timeout=REBALANCE_S,
                commit_interval=0.2, skip_damaged=True, assignor=self._rng.choice((None, "range", "consistent-hash")),
                on_assign=self._own, on_revoke=self._disown, on_lost=self._disown,
            ) as consumer,
        ):  # fmt: skip
            try:
                await self._work(consumer, is_over)
            finally:
                self._disown(list(self._owned))  # it only commits and says good-bye now

    async def _work(self, consumer: Consumer, is_over: Callable[[], bool]) -> None:
        while not is_over():
            for record in await consumer.pull(self._rng.choice((1, 10)), timeout=0.2):
                await trio.sleep(self._rng.uniform(0.0, WORK_MAX_S))
                if not self.is_dead:
                    self._world.trace("worked", self._name, record.partition, record.offset)
                    self._world.history.worked.setdefault((self._topic, record.partition), set()).add(record.offset)

    async def _dial(self, host: str, port: int) -> Transport:
        if self.is_dead:
            raise ConnectionRefusedError("this process is no more")
        return Unsteady(await self._world.network.dial_client(host, port), self)

    # --- what it owns -------------------------------------------------------------------------------

    def _own(self, places: list[Place]) -> None:
        if self.is_dead:
            return
        for place in places:
            self._world.trace("owns", self._name, *place)
            owned = self._owned[place] = Owned(place, self._name, trio.current_time())
            self._world.history.owned.append(owned)

    def _disown(self, places: list[Place]) -> None:
        for place in places:
            owned = self._owned.pop(place, None)
            if owned is not None:
                self._world.trace("disowns", self._name, *place)
                owned.until = trio.current_time()


class Watcher:
    """Looks again and again how far the group is."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def run(self) -> None:
        while self._world.sending:
            await trio.sleep(WATCH_S)
            try:
                with trio.move_on_after(5.0):
                    async with self._world.connect("watcher") as mq:
                        await self.look(mq)
            except DduomqError:
                await trio.sleep(PAUSE_S)

    async def look(self, mq: Client) -> dict[Place, int]:
        offsets = await mq.admin.group_offsets(GROUP)
        for place, offset in sorted(offsets.items()):
            self._world.trace("committed", *place, offset)
            self._world.history.committed.append((place, offset))
        return offsets


class Straggler:
    """A word of a member that is long gone, which was held up on its way: it must be heard by nobody."""

    def __init__(self, world: World, topic: str) -> None:
        self._world = world
        self._topic = topic

    async def run(self) -> None:
        while self._world.sending:
            await trio.sleep(WATCH_S)
            try:
                with trio.move_on_after(1.0):
                    await self._commit()
            except DduomqError as error:
                self._world.trace("straggler", error.code)

    async def _commit(self) -> None:
        parts = tuple(CommitPart(self._topic, at, 0) for at in range(self._world.partitions))
        async with self._world.connect("straggler") as mq:
            await mq._wire.ask(CommitOffsets(GROUP, "gone", 1, parts), 1_000)
