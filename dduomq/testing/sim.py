"""A whole node and its clients in one seeded run on a virtual clock.

`simulate(seed)` makes topics of each durability level, lets senders and readers loose on them, kills the node and
takes the power away again and again, then stops all faults, reads everything back and checks the history. Always
true: same seed, same run, to the last event; the trace hash says so. No thread, socket or real file is used.
"""

import hashlib
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from functools import partial
from random import Random

import attrs
import trio
import trio.testing

from dduomq.client.client import Client, connect
from dduomq.client.consumer import Reader
from dduomq.client.record import Record
from dduomq.config import Config, from_values
from dduomq.errors import ConfigError, DduomqError
from dduomq.log.files import Files
from dduomq.node import build
from dduomq.ports import DiskExecutor, Ports
from dduomq.testing.checker import Acked, History, Mark, Seen, check
from dduomq.testing.clock import SeededScheduler, SimClock
from dduomq.testing.disk import Faults, Platter, SimDisk
from dduomq.testing.network import SimNetwork

PORT = 6086
LEVELS = ("fsync", "flushed", "pagecache")
PARTITIONS = 2
SENDERS = 4
READERS = 2
CRASHES_MAX = 4
RUN_S = 3.0
HEAL_S = 300.0
VIRTUAL_TIME_MAX_S = 3_600.0


@attrs.frozen
class Outcome:
    """What a run showed. `trace` is equal for equal seeds."""

    seed: int
    trace: str
    acked: int
    read: int
    kills: int
    power_losses: int
    events: int


class Simulation:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.clock = SimClock()
        self.platter = Platter(Random(self.rng.random()))
        self.network = SimNetwork(Random(self.rng.random()))
        self.history = History()
        self.kills = 0
        self._hash = hashlib.sha256()
        self._events = 0
        self._sending = True

    def trace(self, *event: object) -> None:
        self._events += 1
        self._hash.update(repr((round(trio.current_time(), 6), *event)).encode())

    # --- the node -----------------------------------------------------------------------------------

    async def _live(self, nursery: trio.Nursery, crashed: trio.Event, ended: trio.Event) -> None:
        """One life of the node, from its start to the crash; it is started again when it can't start yet."""
        while not await self._live_once(nursery, crashed):  # noqa: ASYNC110  # time must pass here
            await trio.sleep(0.2)
        ended.set()

    async def _live_once(self, nursery: trio.Nursery, crashed: trio.Event) -> bool:
        files: Files = self.platter.files
        disk: DiskExecutor = SimDisk(nursery, Random(self.rng.random()))
        ports = Ports(self.clock, self.network, disk, Random(self.rng.random()), files)
        is_ready = False
        try:
            async with build(ports, self._config()):
                is_ready = True
                self.trace("ready")
                await crashed.wait()
        except ConfigError as error:
            self.trace("no start", error.message)
            if is_ready:
                raise
        return is_ready or crashed.is_set()

    def _config(self) -> Config:
        return from_values(
            {
                "data": "data",
                "listen": f"sim:{PORT}",
                "plaintext.allowed": "true",
                "topic.segment.bytes": "4096",
                "topic.flush.ms": "500",
                "retention.check.interval.ms": "1000",
            }
        )

    async def _lives(self, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Life after life, with a crash at the end of each but the last."""
        crashes = self.rng.randrange(1, CRASHES_MAX + 1)
        for number in range(crashes + 1):
            crashed, ended = trio.Event(), trio.Event()
            nursery.start_soon(self._live, nursery, crashed, ended)
            if not number:
                task_status.started()
            if number == crashes:
                self._heal()
                return
            await trio.sleep(self.rng.uniform(0.1, RUN_S / crashes))
            self._crash()
            crashed.set()
            with trio.fail_after(HEAL_S):
                await ended.wait()
            await trio.sleep(self.rng.uniform(0.0, 0.5))

    def _crash(self) -> None:
        is_power = self.rng.random() < 0.5
        self.trace("power loss" if is_power else "kill")
        if is_power:
            self.history.losses += 1
            self.platter.lose_power()
        else:
            self.kills += 1
            self.platter.kill()
        self.network.crash()

    async def _trouble(self) -> None:
        """Now and then the disk is full for a while, or a log's sync fails."""
        while self._sending:
            await trio.sleep(self.rng.uniform(0.2, 2.0))
            kind = self.rng.random()
            if kind < 0.15:
                self.platter.faults = Faults(is_full=True)
            elif kind < 0.2:
                self.platter.faults = Faults(sync_fails=0.2)
            else:
                continue
            self.trace("trouble", kind)
            await trio.sleep(self.rng.uniform(0.05, 0.3))
            self.platter.faults = Faults()

    def _heal(self) -> None:
        self.platter.faults = Faults()

    # --- the clients --------------------------------------------------------------------------------

    def _connect(self, name: str) -> AbstractAsyncContextManager[Client]:
        return connect(
            f"sim:{PORT}",
            client_id=name,
            dial=self.network.dial_client,
            rng=Random(self.rng.random()),
            wall_ms=self.clock.wall_ms,
            delivery_timeout=20.0,
            request_timeout=1.0,
        )

    async def _persist(self, act: Callable[[], Awaitable[object]]) -> None:
        """Try again until it works: the node may be away."""
        while True:
            try:
                await act()
                return
            except DduomqError as error:
                if not error.retriable and error.code != 36:
                    raise
                if error.code == 36:
                    return
                await trio.sleep(0.05)

    async def _send(self, sender: str, topic: str, partition: int) -> None:
        """Number after number, one at a time or a few at once."""
        rng = Random(self.rng.random())
        number = 0

        async def work() -> None:
            nonlocal number
            async with self._connect(sender) as mq:
                while self._sending:
                    number += 1
                    await self._send_one(mq, sender, topic, partition, number)
                    if rng.random() < 0.3:
                        await trio.sleep(rng.uniform(0.0, 0.05))

        await self._persist(work)

    async def _send_one(self, mq: Client, sender: str, topic: str, partition: int, number: int) -> None:
        try:
            result = await mq.send(topic, f"{sender}:{number}", partition=partition)
        except DduomqError as error:
            self.trace("refused", sender, number, error.code)
            return
        self.trace("acked", sender, number, result.offset)
        acked = Acked(topic, partition, result.offset, sender, number, self.history.losses)
        self.history.acked.append(acked)

    async def _read(self, name: str, topic: str) -> None:
        async def work() -> None:
            async with self._connect(name) as mq, mq.reader(topic, wait=0.2) as reader:
                while self._sending:
                    losses = self.history.losses
                    records = await reader.fetch()
                    if losses == self.history.losses:
                        self._note(topic, reader, records)

        while self._sending:
            try:
                await work()
            except DduomqError:
                await trio.sleep(0.05)

    def _note(self, topic: str, reader: Reader, records: list[Record]) -> None:
        losses = self.history.losses
        for record in records:
            value = record.value.decode()
            self.trace("read", topic, record.partition, record.offset, value)
            self.history.seen.append(Seen(topic, record.partition, record.offset, value, losses))
        for partition, mark in sorted(reader.high_watermarks.items()):
            self.history.marks.append(Mark(topic, partition, mark, losses))

    async def _make_topics(self) -> None:
        async with self._connect("admin") as mq:
            for level in LEVELS:
                self.history.durability[level] = level

                async def create(level: str = level) -> None:
                    await mq.admin.create_topic(level, partitions=PARTITIONS, config={"durability": level})

                await self._persist(create)

    async def _read_everything(self) -> None:
        """Faults are off: everything must be readable, and a new record must be taken."""
        async with self._connect("auditor") as mq:
            for topic in LEVELS:
                for partition in range(PARTITIONS):
                    await self._persist(partial(mq.admin.restore_log, topic, partition))
                    await self._persist(partial(mq.send, topic, f"end:{partition}", partition=partition))
                    end = await mq.admin.offset(topic, partition, "latest")
                    async with mq.reader(topic, partitions=[partition]) as reader:
                        found: list[tuple[int, str]] = []
                        while reader.position(partition) < end:
                            found += [(r.offset, r.value.decode()) for r in await reader.fetch()]
                    self.history.final[topic, partition] = found

    # --- the run ------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        with trio.fail_after(VIRTUAL_TIME_MAX_S):
            async with trio.open_nursery() as nursery:
                await self._run(nursery)
                nursery.cancel_scope.cancel()
        check(self.history)
        return Outcome(
            self.seed, self._hash.hexdigest(), len(self.history.acked), len(self.history.seen), self.kills,
            self.history.losses, self._events,
        )  # fmt: skip

    async def _run(self, nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as clients, trio.open_nursery() as lives:
            await lives.start(self._lives_until_healed, nursery)
            await self._persist(self._make_topics)
            for number in range(SENDERS):
                topic, partition = LEVELS[number % len(LEVELS)], self.rng.randrange(PARTITIONS)
                clients.start_soon(self._send, f"s{number}", topic, partition)
            for number in range(READERS):
                clients.start_soon(self._read, f"r{number}", LEVELS[number % len(LEVELS)])
            clients.start_soon(self._stop_sending)
            clients.start_soon(self._trouble)
        self._heal()
        with trio.fail_after(HEAL_S):
            await self._read_everything()

    async def _lives_until_healed(
        self, nursery: trio.Nursery, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        await self._lives(nursery, task_status)

    async def _stop_sending(self) -> None:
        await trio.sleep(RUN_S + 1.0)
        self._sending = False


def simulate(seed: int) -> Outcome:
    """One run. Raises `Violation`, or whatever broke; the seed replays it."""
    with SeededScheduler(seed):
        return trio.run(_simulate, seed, clock=trio.testing.MockClock(autojump_threshold=0))


async def _simulate(seed: int) -> Outcome:
    return await Simulation(seed).run()
