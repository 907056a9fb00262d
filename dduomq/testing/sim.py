"""A whole node and its clients in one seeded run on a virtual clock.

`simulate(seed)` makes topics of each durability level, lets senders, readers and an operator loose on them, stops
the node, kills it, takes the power away and flips bits meanwhile, then ends all faults, reads everything back and
checks the history. Always true: same seed, same run, to the last event; the trace hash says so. No thread, socket
or real file is used.
"""

import hashlib
from functools import partial
from random import Random

import attrs
import trio
import trio.testing

from dduomq.config import Config, from_values
from dduomq.errors import ConfigError
from dduomq.log.files import Files
from dduomq.node import build
from dduomq.ports import DiskExecutor, Ports
from dduomq.testing.atlas import damage_hint, damage_log
from dduomq.testing.audit import Audit
from dduomq.testing.checker import History, check
from dduomq.testing.clock import SeededScheduler, SimClock
from dduomq.testing.delayers import FAR_MS, Delayer, make_later
from dduomq.testing.disk import Faults, Platter, SimDisk
from dduomq.testing.network import SimNetwork
from dduomq.testing.queue_workers import DELIVERIES, QueueWorker
from dduomq.testing.workers import Straggler, Watcher, Worker
from dduomq.testing.workload import PORT, Follower, Operator, Sender, World, persist

LEVELS = ("fsync", "flushed", "pagecache")
PARTITIONS = 2
SENDERS = 4
FOLLOWERS = 3
WORKERS = 3
QUEUERS = 2  # in every other run: they take as long as all else together
DELAYERS = 2
CRASHES_MAX = 4
RUN_S = (2.0, 3.0, 3.0, 3.0, 9.0)  # the longest sees checkpoints, too
FLUSH_S = 0.2
FLUSH_SLACK_S = 1.0  # a tick of the janitor, and disk jobs that wait in a row while the disk is slow
ACTOR_CRASHES_MAX = 4  # more in a minute, and the node would give up
CLOCK_JUMP_MAX_MS = 30 * 60_000
HEAL_S = 300.0
VIRTUAL_TIME_MAX_S = 3_600.0
STOP, KILL, POWER = "stop", "kill", "power loss"


@attrs.frozen
class Outcome:
    """What a run showed. `trace` is equal for equal seeds. `faults`: how often each kind was injected."""

    seed: int
    trace: str
    acked: int
    read: int
    events: int
    faults: dict[str, int]


class Simulation:
    """One run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.clock = SimClock()
        self.platter = Platter(Random(self.rng.random()))
        self.network = SimNetwork(Random(self.rng.random()))
        self.history = History(deliveries=DELIVERIES)
        self.faults: dict[str, int] = {}
        self.world = World(
            Random(self.rng.random()), self.clock, self.network, self.history, self.trace, PARTITIONS
        )  # fmt: skip
        self.run_s = self.rng.choice(RUN_S)
        self.operator = Operator(self.world, LEVELS)
        self.audit = Audit(self.world, LEVELS)
        self._has_queue = seed % 4 == 3  # it costs as much as all the rest
        self._trouble_rng = Random(self.rng.random())
        self._hash = hashlib.sha256()
        self._events = 0
        self._ready_at: float | None = None

    def trace(self, *event: object) -> None:
        self._events += 1
        self._hash.update(repr((round(trio.current_time(), 6), *event)).encode())

    def _count(self, fault: str) -> None:
        self.trace("fault", fault)
        self.faults[fault] = self.faults.get(fault, 0) + 1

    # --- the node -----------------------------------------------------------------------------------

    async def _live(self, nursery: trio.Nursery, over: trio.Event, ended: trio.Event) -> None:
        """One life of the node, from its start to the crash; it is started again when it can't start yet."""
        while not await self._live_once(nursery, over):  # noqa: ASYNC110  # time must pass, not an event
            await trio.sleep(0.2)  # time must pass, not an event
        ended.set()

    async def _live_once(self, nursery: trio.Nursery, over: trio.Event) -> bool:
        files: Files = self.platter.files
        disk: DiskExecutor = SimDisk(nursery, self.platter, Random(self.rng.random()))
        ports = Ports(self.clock, self.network, disk, Random(self.rng.random()), files)
        is_ready = False
        try:
            async with build(ports, self._config()):
                is_ready = True
                self._ready_at = trio.current_time()
                self.trace("ready")
                await over.wait()
        except ConfigError as error:
            self.trace("no start", error.message)
            if is_ready:
                raise
        return is_ready or over.is_set()

    def _config(self) -> Config:
        return from_values(
            {
                "data": "data",
                "listen": f"sim:{PORT}",
                "plaintext.allowed": "true",
                "topic.segment.bytes": "4096",
                "topic.index.interval.bytes": "256",
                "topic.flush.ms": str(int(FLUSH_S * 1000)),
                "retention.check.interval.ms": "1000",
            }
        )

    async def _lives(self, nursery: trio.Nursery, *, task_status: trio.TaskStatus[None]) -> None:
        """Life after life, each but the last with its end."""
        crashes = self.rng.randrange(1, CRASHES_MAX + 1)
        for number in range(crashes + 1):
            over, ended = trio.Event(), trio.Event()
            nursery.start_soon(self._live, nursery, over, ended)
            if not number:
                task_status.started()
            if number == crashes:
                return
            await trio.sleep(self.rng.uniform(0.1, 2 * self.run_s / crashes))
            kind = self._end_of_life()
            self._count(kind)
            if kind != STOP:
                self._crash(kind)
            over.set()
            with trio.fail_after(HEAL_S):
                await ended.wait()
            self.network.crash()
            self._ready_at = None
            if kind != STOP:
                self._damage()
            await trio.sleep(self.rng.uniform(0.0, 0.5))

    def _end_of_life(self) -> str:
        """Where a sync has failed and no marker tells of it yet, only a power loss shows what the disk has."""
        kind = self.rng.choice((STOP, KILL, POWER, POWER))
        return POWER if self.platter.unmarked else kind

    def _crash(self, kind: str) -> None:
        if kind == POWER:
            self.history.losses.append(self._flushed_until())
            self.platter.lose_power()
        else:
            self.platter.kill()
        self.network.crash()

    def _flushed_until(self) -> float:
        """Up to when a topic that flushes by interval has surely been synced, if the power goes now."""
        until = trio.current_time() - FLUSH_S - FLUSH_SLACK_S
        if self._ready_at is None or self._ready_at > until or self.platter.failed_syncs:
            return -1.0
        return until

    def _damage(self) -> None:
        """What the disk may do while nobody looks."""
        if self.rng.random() < 0.3:
            damage = damage_log(self.platter, LEVELS, self.rng)
            if damage is not None:
                self._count("flipped bit in a log")
                place = (damage.topic, damage.partition)
                self.history.damaged.setdefault(place, set()).update(range(damage.first, damage.last + 1))
        if self.rng.random() < 0.3 and damage_hint(self.platter, self.rng):
            self._count("flipped bit in a hint")

    async def _trouble(self) -> None:
        """Now and then the disk is full for a while, or slow, a sync fails, a connection breaks, the clock jumps."""
        rng = self._trouble_rng
        while self.world.sending:
            await trio.sleep(rng.uniform(0.1, 1.0))
            kind = rng.random()
            if kind < 0.3:
                self._count("broken connection")
                self.network.break_one()
            elif kind < 0.4:
                self._count("clock jump")
                by_ms = rng.randrange(-CLOCK_JUMP_MAX_MS, CLOCK_JUMP_MAX_MS)
                self.history.set_back_ms += max(0, -by_ms)
                self.clock.jump(by_ms)
            elif kind < 0.5:
                await self._disk_trouble("full disk", Faults(is_full=True))
            elif kind < 0.55:
                await self._disk_trouble("failing sync", Faults(sync_fails=0.2))
            elif kind < 0.65:
                await self._disk_trouble("slow disk", Faults(slowness=50.0))
            elif kind < 0.75 and self.faults.get("actor crash", 0) < ACTOR_CRASHES_MAX:
                self._count("actor crash")
                self.platter.bugs = 1

    async def _disk_trouble(self, name: str, faults: Faults) -> None:
        self._count(name)
        self.platter.faults = faults
        await trio.sleep(self._trouble_rng.uniform(0.05, 0.3))
        self.platter.faults = Faults()

    # --- the run ------------------------------------------------------------------------------------

    async def run(self) -> Outcome:
        with trio.fail_after(VIRTUAL_TIME_MAX_S):
            async with trio.open_nursery() as nursery:
                await self._run(nursery)
                nursery.cancel_scope.cancel()
        check(self.history)
        return Outcome(
            self.seed, self._hash.hexdigest(), len(self.history.acked), len(self.history.seen), self._events,
            self.faults,
        )  # fmt: skip

    async def _run(self, nursery: trio.Nursery) -> None:
        async with trio.open_nursery() as clients, trio.open_nursery() as lives:
            await lives.start(partial(self._lives, nursery))
            for level in LEVELS:
                self.history.durability[level] = level
                await self.operator.make(level, {"durability": level})
            for number in range(SENDERS):
                topic = LEVELS[number % len(LEVELS)]
                sender = Sender(
                    self.world, f"s{number}", topic, self.rng.randrange(PARTITIONS), pause_s=self.run_s / 30
                )
                clients.start_soon(sender.run)
            await make_later(self.world)
            for number in range(DELAYERS):
                clients.start_soon(Delayer(self.world, f"d{number}", number % PARTITIONS).run)
            for number in range(FOLLOWERS):
                clients.start_soon(Follower(self.world, f"f{number}", LEVELS[number % len(LEVELS)]).run)
            for number in range(WORKERS):
                clients.start_soon(Worker(self.world, f"w{number}", LEVELS[0]).run)
            clients.start_soon(Watcher(self.world).run)
            if self.seed % 4 == 1:
                clients.start_soon(Straggler(self.world, LEVELS[0]).run)
            for number in range(QUEUERS if self._has_queue else 0):
                clients.start_soon(QueueWorker(self.world, f"q{number}", LEVELS[0]).run)
            clients.start_soon(self.operator.run)
            clients.start_soon(self._trouble)
            clients.start_soon(self._stop_sending)
        self.platter.faults, self.platter.bugs = Faults(), 0
        with trio.fail_after(HEAL_S):
            await persist(self.audit.records)
            await persist(self.audit.group)
            if self._has_queue:
                await persist(self.audit.queue)
            await persist(partial(self.audit.delays, self._pass_all_times))

    def _pass_all_times(self) -> None:
        self.clock.jump(FAR_MS + 2 * CLOCK_JUMP_MAX_MS * CRASHES_MAX)

    async def _stop_sending(self) -> None:
        await trio.sleep(self.run_s)
        self.world.sending = False


def simulate(seed: int) -> Outcome:
    """One run. Raises `Violation`, or whatever broke; the seed replays it."""
    with SeededScheduler(seed):
        return trio.run(_simulate, seed, clock=trio.testing.MockClock(autojump_threshold=0))


async def _simulate(seed: int) -> Outcome:
    return await Simulation(seed).run()
