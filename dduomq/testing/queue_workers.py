"""Workers of a queue in a simulation: they ack, give back, give up, forget, stall, crash and come back.

Always true: a record is in a worker's hand from when it got it until it has said what becomes of it, has crashed, or
can't be sure any more that its lock lasts; what it was told of its acks goes into the history with its time.
"""

from collections.abc import Callable

import trio

from dduomq.actors.nursery import open_flat_nursery
from dduomq.client.conn import Transport
from dduomq.client.queue import Queue
from dduomq.client.queue_record import QueueRecord
from dduomq.errors import DduomqError, OutcomeUnknown, RecordNotHeld
from dduomq.testing.queue_checker import Handed, Place
from dduomq.testing.workers import Unsteady
from dduomq.testing.workload import World

QUEUE_GROUP = "queuers"
LOCK_S = 1.0
SESSION_S = 2.0
DELIVERIES = 100
WORK_MAX_S = 0.3
STALL_MAX_S = 4.0


class QueueWorker:
    """Works on one topic as a member of the share group, life after life."""

    def __init__(self, world: World, name: str, topic: str) -> None:
        self._world = world
        self._name = name
        self._topic = topic
        self._rng = world.fork()
        self._hands: list[tuple[QueueRecord, Handed]] = []
        self.silent_until = 0.0
        self.is_dead = False

    async def run(self) -> None:
        while self._world.sending:
            try:
                await self._live()
            except (DduomqError, OSError) as error:
                self._world.trace("queuer", self._name, type(error).__name__)
            self._let_go()
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
                self.silent_until = trio.current_time() + self._rng.uniform(0.1, STALL_MAX_S)
            elif kind < 0.5:
                self._world.trace("queuer crashes", self._name)
                self._let_go()
                self.is_dead = True
                end()

    async def work(self, is_over: Callable[[], bool]) -> None:
        """Until it is over, or the queue fails."""
        async with (
            self._world.connect(self._name, dial=self._dial) as mq,
            mq.queue(
                self._topic, group=QUEUE_GROUP, lock=LOCK_S, session_timeout=SESSION_S, deliveries=DELIVERIES,
                prefetch=self._rng.choice((5, 20, 100)), auto_ack=False,
            ) as queue,
        ):  # fmt: skip
            try:
                await self._work(queue, is_over)
            finally:
                self._let_go()

    async def _work(self, queue: Queue, is_over: Callable[[], bool]) -> None:
        while not is_over():
            self._let_go()
            for record in await queue.pull(self._rng.choice((1, 10, 30)), timeout=0.5):
                self._take(record)
            await trio.sleep(self._rng.uniform(0.0, WORK_MAX_S))
            async with trio.open_nursery() as nursery:
                for record, handed in self._hands:
                    nursery.start_soon(self._end, record, handed, self._rng.random())

    def _take(self, record: QueueRecord) -> None:
        if self.is_dead:
            return
        place: Place = (record.topic, record.partition)
        self._world.trace("handed", self._name, *place, record.offset, record.delivery_count)
        handed = Handed(place, record.offset, self._name, record.delivery_count, trio.current_time())
        self._hands.append((record, handed))
        self._world.history.handed.append(handed)

    async def _end(self, record: QueueRecord, handed: Handed, kind: float) -> None:
        """Most are done; some are given back, some kept for longer first, some forgotten."""
        try:
            if kind < 0.1:
                await record.extend(self._rng.uniform(0.0, 2.0))
            if kind < 0.75:
                said = record.ack()
            elif kind < 0.9:
                said = record.nack(self._rng.choice((None, 0.3)))
            elif kind < 0.92:
                said = record.reject("planted")
            else:
                return
            handed.until = min(trio.current_time(), record.safe_until)
            await said
        except (RecordNotHeld, OutcomeUnknown):
            return
        if kind < 0.75 and not self.is_dead:
            handed.acked_at = trio.current_time()
            self._world.trace("queue acked", self._name, *handed.place, handed.offset)

    def _let_go(self) -> None:
        """It has them in hand no more."""
        for record, handed in self._hands:
            handed.until = min(handed.until, trio.current_time(), record.safe_until)
        self._hands = []

    async def _dial(self, host: str, port: int) -> Transport:
        if self.is_dead:
            raise ConnectionRefusedError("this process is no more")
        return Unsteady(await self._world.network.dial_client(host, port), self)
