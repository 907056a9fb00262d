"""Three whole nodes, or five, and their clients in one seeded run on a virtual clock.

`simulate_cluster(seed)` makes replicated topics, lets senders, readers, groups, delayed messages and an operator loose
on them, stops, kills and starves the nodes of power meanwhile, cuts them off from each other, lets their disks fail and
their clocks go wrong; then ends all faults, reads everything back, compares the disks, in some runs lets all but one
come back from a last blackout and reads once more, and checks the history. Always true: same seed, same run, to the
last event; the trace hash says so. No thread, socket or real file is used.
"""

import hashlib
from functools import partial
from random import Random

import trio
import trio.testing

from dduomq.errors import UnknownTopicOrPartition
from dduomq.testing.audit import Audit
from dduomq.testing.checker import History, check
from dduomq.testing.clock import SeededScheduler, SimClock
from dduomq.testing.cluster_checker import ClusterViolation, Disks, Leaderships, Look, differences
from dduomq.testing.cluster_host import HEAL_S, ClusterHost, make_hosts, name_of
from dduomq.testing.cluster_operator import ClusterOperator
from dduomq.testing.cluster_trouble import CLOCK_JUMP_MAX_MS, Trouble
from dduomq.testing.delayers import FAR_MS, Delayer, make_later
from dduomq.testing.network import SimNetwork
from dduomq.testing.queue_workers import DELIVERIES
from dduomq.testing.sim import Outcome
from dduomq.testing.store import MemoryEngine
from dduomq.testing.workers import Watcher, Worker
from dduomq.testing.workload import PORT, Follower, Operator, Sender, World, persist

TOPICS = ("orders", "events")
PARTITIONS = 2
REPLICAS, IN_SYNC = 3, 2
SENDERS, FOLLOWERS, WORKERS, DELAYERS = 3, 2, 2, 1
RUN_S = (3.0, 4.0, 4.0, 8.0)
NODES = (3, 3, 3, 3, 3, 3, 3, 5)
SKEW_MAX_MS = 5 * 60_000
SESSIONS_MIN_S = (0.0, 0.0, 6.0)  # an engine outside may grant longer ones than were asked for
OUTSIDE = 0.4  # share of the runs whose metadata are in an engine outside
LOOK_S = 0.25
LAST_BLACKOUT = 0.25
SETTLE_S = 0.5
SETTLE_MAX_S = 90.0
VIRTUAL_TIME_MAX_S = 3_600.0


class ClusterSimulation:
    """One run. `nodes` 0: as many as the seed says."""

    def __init__(self, seed: int, nodes: int = 0) -> None:
        self.seed = seed
        self.rng = Random(seed)
        self.nodes = nodes or self.rng.choice(NODES)
        self.network = SimNetwork(Random(self.rng.random()))
        self.history = History(deliveries=DELIVERIES, durability=dict.fromkeys(TOPICS, "fsync"))
        self.run_s = self.rng.choice(RUN_S)
        self._hash = hashlib.sha256()
        self._events = 0
        self._is_over = False
        self.world = World(
            Random(self.rng.random()), SimClock(), self.network, self.history, self.trace, PARTITIONS,
            bootstrap=",".join(f"{name_of(number)}:{PORT}" for number in range(1, self.nodes + 1)),
            replication=min(REPLICAS, self.nodes),
        )  # fmt: skip
        self.operator = Operator(self.world, TOPICS)
        self.mover = ClusterOperator(self.world, TOPICS, list(range(1, self.nodes + 1)))
        self.audit = Audit(self.world, TOPICS)
        self.look = Look(
            Leaderships(self.trace) if self.nodes > 1 else None,
            Disks(lambda directory: directory.startswith("passing")),
        )
        self.hosts: list[ClusterHost] = []
        has_engine = self.nodes > 1 and self.rng.random() < OUTSIDE
        self.engine = self._make_engine(Random(self.rng.random())) if has_engine else None

    def _make_engine(self, rng: Random) -> MemoryEngine:
        return MemoryEngine(rng, session_min_s=rng.choice(SESSIONS_MIN_S))

    def trace(self, *event: object) -> None:
        self._events += 1
        self._hash.update(repr((round(trio.current_time(), 6), *event)).encode())

    async def run(self) -> Outcome:
        with trio.fail_after(VIRTUAL_TIME_MAX_S):
            async with trio.open_nursery() as nursery:
                if self.engine is not None:
                    nursery.start_soon(self.engine.run)
                self.hosts = make_hosts(
                    self.nodes, nursery, self.network, Random(self.rng.random()), self.trace, self.engine
                )
                self._set_clocks()
                trouble = Trouble(
                    self.hosts, self.network, self.history, self.look, Random(self.rng.random()), TOPICS, self.engine,
                    lambda: not self.world.sending, self.trace,
                )  # fmt: skip
                nursery.start_soon(self._watch)
                await self._run(trouble)
                await self._heal(trouble)
                nursery.cancel_scope.cancel()
        check(self.history)
        self.look.check()
        return Outcome(
            self.seed, self._hash.hexdigest(), len(self.history.acked), len(self.history.seen), self._events,
            trouble.happened | self.mover.done | {"new leader": self.look.changes},
        )  # fmt: skip

    def _set_clocks(self) -> None:
        """Machines do not agree on the time; in every third run not by far."""
        skew_max_ms = self.rng.choice((0, 50, SKEW_MAX_MS))
        skews = [self.rng.randrange(-skew_max_ms, skew_max_ms + 1) for _ in self.hosts]
        for host, skew_ms in zip(self.hosts, skews, strict=True):
            host.clock.jump(skew_ms)
        self.history.set_back_ms += 2 * skew_max_ms

    async def _watch(self) -> None:
        """Look at everything, again and again."""
        while True:
            for host in self.hosts:
                self.look.at(host)
            await trio.sleep(LOOK_S)

    async def _run(self, trouble: Trouble) -> None:
        async with trio.open_nursery() as clients:
            for host in self.hosts:
                host.start()
            with trio.fail_after(HEAL_S):
                for host in self.hosts:
                    await host.wait_ready()
                for topic in TOPICS:
                    await self.operator.make(topic, {"min.insync.replicas": str(min(IN_SYNC, self.nodes))})
                await make_later(self.world)
            for number in range(SENDERS):
                topic, partition = TOPICS[number % len(TOPICS)], self.rng.randrange(PARTITIONS)
                sender = Sender(self.world, f"s{number}", topic, partition, pause_s=self.run_s / 30)
                clients.start_soon(sender.run)
            for number in range(DELAYERS):
                clients.start_soon(Delayer(self.world, f"d{number}", number % PARTITIONS).run)
            for number in range(FOLLOWERS):
                clients.start_soon(Follower(self.world, f"f{number}", TOPICS[number % len(TOPICS)]).run)
            for number in range(WORKERS):
                clients.start_soon(Worker(self.world, f"w{number}", TOPICS[0]).run)
            clients.start_soon(Watcher(self.world).run)
            clients.start_soon(self.operator.run)
            if self.nodes > 1:
                clients.start_soon(self.mover.run)
            clients.start_soon(trouble.run)
            clients.start_soon(self._stop_sending)

    async def _stop_sending(self) -> None:
        await trio.sleep(self.run_s)
        self.world.sending = False

    # --- the end ------------------------------------------------------------------------------------

    async def _heal(self, trouble: Trouble) -> None:
        """No fault any more: everything is there again, in bounded time."""
        self.trace("healed")
        with trio.fail_after(HEAL_S):
            for host in self.hosts:
                await host.wait_ready()
            if self.nodes > 1:
                await persist(self.mover.settle)
            await persist(self._restore_logs)
            if self.nodes > 1:
                await persist(self.mover.move)
            await persist(self.audit.records)
            await persist(self.audit.group)
            await persist(partial(self.audit.delays, self._pass_all_times))
        await self._settle(trouble)
        if self.nodes > 1 and self.rng.random() < LAST_BLACKOUT:
            await self._go_on_without_one(trouble)

    async def _go_on_without_one(self, trouble: Trouble) -> None:
        """After a blackout those who are back serve: they have all there is, as all were in sync before."""
        with trio.fail_after(HEAL_S):
            await persist(self.mover.spread)
        await self._settle(trouble)
        with trio.fail_after(HEAL_S):
            away = await trouble.blackout_but_one()
            await persist(self.audit.records)
            away.start()
            await away.wait_ready()
        await self._settle(trouble)

    async def _restore_logs(self) -> None:
        """An operator has mended all disks."""
        async with self.world.connect("operator") as mq:
            for topic in await mq.admin.list_topics():
                for partition in range(len(topic.partitions)):
                    await persist(partial(mq.admin.restore_log, topic.name, partition), UnknownTopicOrPartition)

    def _pass_all_times(self) -> None:
        for clock in (self.world.clock, *(host.clock for host in self.hosts)):
            clock.jump(FAR_MS + self.history.set_back_ms + 2 * CLOCK_JUMP_MAX_MS)

    async def _settle(self, trouble: Trouble) -> None:
        """All replicas are in sync again, and equal."""
        found = "nothing was looked at"
        with trio.move_on_after(SETTLE_MAX_S):
            while found:
                found = differences(self.hosts, self.look.disks, trouble.damaged)
                await trio.sleep(SETTLE_S)
        if found:
            raise ClusterViolation(found)


def simulate_cluster(seed: int, nodes: int = 0) -> Outcome:
    """One run. Raises `Violation`, `ClusterViolation`, or whatever broke; the seed replays it."""
    with SeededScheduler(seed):
        return trio.run(_simulate, seed, nodes, clock=trio.testing.MockClock(autojump_threshold=0))


async def _simulate(seed: int, nodes: int) -> Outcome:
    return await ClusterSimulation(seed, nodes).run()
