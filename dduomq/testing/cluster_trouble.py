"""What befalls the machines of a simulated cluster, from a seed.

Always true: no more than a minority of the machines is down, cut off or damaged at once, but for a blackout, in which
all lose their power together, and a silence, in which none hears another; every trouble ends, so that service must come
back. Bits flip, and syncs fail, on one machine of a run only: what is whole elsewhere must mend it.
"""

from collections.abc import Callable
from itertools import combinations
from random import Random

import trio
import trio.lowlevel

from dduomq.testing.atlas import damage_hint, damage_log
from dduomq.testing.checker import History
from dduomq.testing.cluster_checker import Look
from dduomq.testing.cluster_host import KILL, POWER, STOP, ClusterHost
from dduomq.testing.disk import Faults
from dduomq.testing.network import CLIENT, SimNetwork
from dduomq.testing.store import MemoryEngine

PAUSE_S = (0.1, 1.5)
DOWN_MAX_S = 4.0  # much longer than a session
SILENCE_S = (0.5, 7.0)  # no leader of the metadata for long, and then all sessions go on
LAST_SILENCE = 0.2
CUT_MAX_S = (3.0, 3.0, 12.0)  # the longest: replicas that do not hear each other leave the in-sync set
SICK_MAX_S = 1.0
AMBUSH = 0.5
CATCHING_UP_S = 0.05
CLOCK_JUMP_MAX_MS = 30 * 60_000
BLACKOUT, SILENCE = "blackout", "silence"
CUT_OFF, ONE_WAY, CUT_PAIR = "cut off", "cut one way", "two cut from each other"
SLOW, FULL, FAILING = "slow disk", "full disk", "failing sync"
BROKEN, JUMP = "broken connection", "clock jump"
OUTAGE = "metadata outage"
FLIPPED, FLIPPED_HINT = "flipped bit in a log", "flipped bit in a hint"


class Trouble:
    """`topics`: whose logs may be damaged. `is_over` says when no new trouble is to begin."""

    def __init__(
        self,
        hosts: list[ClusterHost],
        network: SimNetwork,
        history: History,
        look: Look,
        rng: Random,
        topics: tuple[str, ...],
        engine: MemoryEngine | None,
        is_over: Callable[[], bool],
        trace: Callable[..., None],
    ) -> None:
        self._hosts = hosts
        self._network = network
        self._history = history
        self._look = look
        self._rng = rng
        self._topics = topics
        self._engine = engine
        self._is_over = is_over
        self._trace = trace
        self._capacity = max(1, (len(hosts) - 1) // 2)
        self._troubled: dict[int, None] = {}
        self._frail = rng.choice(hosts)  # whose disk is not to be trusted
        self.happened: dict[str, int] = {}
        self.damaged: dict[tuple[int, str], set[int]] = {}  # by node and log, where a batch begins

    def _count(self, kind: str, *where: object) -> None:
        self._trace("fault", kind, *where)
        self.happened[kind] = self.happened.get(kind, 0) + 1

    async def run(self) -> None:
        """Until it is over, and all that has begun has ended."""
        async with trio.open_nursery() as nursery:
            while not self._is_over():
                await trio.sleep(self._rng.uniform(*PAUSE_S))
                kind = self._rng.random()
                if kind < 0.2:
                    self._trifle(nursery)
                elif kind < 0.26 and not self._troubled:
                    await (self._blackout() if self._rng.random() < 0.6 else self._silence())
                elif len(self._troubled) < self._capacity:
                    well = [host for host in self._hosts if host.node_id not in self._troubled]
                    host = self._rng.choice(well)
                    self._troubled[host.node_id] = None
                    nursery.start_soon(self._befall, host)
            if self._rng.random() < LAST_SILENCE:  # no node comes or goes behind it: who was deterred must find out
                await self._silence()
        self._network.mend_all()

    def _trifle(self, nursery: trio.Nursery) -> None:
        """What may come on top of everything."""
        kind = self._rng.random()
        if kind < 0.5 or (kind < 0.7 and self._engine is None):
            self._count(BROKEN)
            self._network.break_one()
        elif kind < 0.7:
            nursery.start_soon(self._outage)
        else:
            host = self._rng.choice(self._hosts)
            self._count(JUMP, host.name)
            by_ms = self._rng.randrange(-CLOCK_JUMP_MAX_MS, CLOCK_JUMP_MAX_MS)
            self._history.set_back_ms += abs(by_ms)  # to be ahead is to be behind for the others
            host.clock.jump(by_ms)

    async def _outage(self) -> None:
        """The metadata engine is away for everybody."""
        assert self._engine is not None
        self._count(OUTAGE)
        self._engine.stop()
        await trio.sleep(self._rng.uniform(0.1, max(CUT_MAX_S)))
        self._engine.start()

    async def _befall(self, host: ClusterHost) -> None:
        kind = self._rng.random()
        if kind < 0.55 or len(self._hosts) == 1:
            await self._down(host)
        elif kind < 0.8:
            await self._cut(host)
        else:
            await self._sick(host)
        del self._troubled[host.node_id]

    # --- nodes die ----------------------------------------------------------------------------------

    async def _down(self, host: ClusterHost, then: Callable[[], None] = lambda: None) -> None:
        """Its node ends, and comes back after a while. `then` is done at that very moment."""
        kind = self._rng.choice((STOP, KILL, POWER, POWER))
        if host.platter.unmarked:
            kind = POWER  # only that shows what the disk has
        self._count(kind, host.name)
        self._look.at(host)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(host.end, kind)
            await trio.lowlevel.checkpoint()
            then()
        if host is self._frail:
            self._damage(host)
        self._look.at(host)
        await trio.sleep(self._rng.uniform(0.0, DOWN_MAX_S) if self._rng.random() < 0.7 else 0.0)
        host.start()
        await host.wait_ready()

    def _damage(self, host: ClusterHost) -> None:
        """What the disk may do while nobody looks. A batch that no other machine has can't be mended."""
        if len(self._hosts) > 1 and self._rng.random() < 0.3:
            damage = damage_log(host.platter, self._topics, self._rng)
            if damage is not None:
                self._count(FLIPPED, host.name, damage)
                where = (host.node_id, f"{damage.topic}-{damage.partition}")
                self.damaged.setdefault(where, set()).add(damage.first)
                # nobody looks for it before the node leads, but a recovery that comes by: until then it may lie there
                place = (damage.topic, damage.partition)
                self._history.damaged.setdefault(place, set()).update(range(damage.first, damage.last + 1))
        if self._rng.random() < 0.3 and damage_hint(host.platter, self._rng):
            self._count(FLIPPED_HINT, host.name)

    async def _blackout(self) -> None:
        """All lose their power at one moment, and come back one after another."""
        await self._lose_all_power()
        for host in self._hosts:
            await self._return(host)
        for host in self._hosts:
            await host.wait_ready()
        self._troubled.clear()

    async def blackout_but_one(self) -> ClusterHost:
        """The same, but one stays away: that one is returned when all others are ready."""
        away = self._rng.choice(self._hosts)
        await self._lose_all_power()
        self._trace("away", away.name)
        back = [host for host in self._hosts if host is not away]
        for host in back:
            await self._return(host)
        for host in back:
            await host.wait_ready()
        return away

    async def _lose_all_power(self) -> None:
        self._count(BLACKOUT)
        for host in self._hosts:
            self._troubled[host.node_id] = None
            host.platter.faults = Faults(slowness=self._rng.choice((1.0, 50.0)))  # much is on its way to the disk
        await trio.sleep(self._rng.uniform(0.0, 0.3))
        async with trio.open_nursery() as nursery:
            for host in self._hosts:
                nursery.start_soon(host.end, POWER)

    async def _return(self, host: ClusterHost) -> None:
        self._look.at(host)
        await trio.sleep(self._rng.uniform(0.0, 0.5))
        host.start()

    async def _silence(self) -> None:
        """The machines live, and none hears another; nobody has to start again for that."""
        self._count(SILENCE)
        pairs = [(one.name, other.name) for one, other in combinations(self._hosts, 2)]
        for pair in pairs:
            self._network.cut(*pair)
        await trio.sleep(self._rng.uniform(*SILENCE_S))
        for pair in pairs:
            self._network.mend(*pair)

    # --- ways are cut -------------------------------------------------------------------------------

    async def _cut(self, host: ClusterHost) -> None:
        """One machine hears the others no more, or is not heard, or two do not hear each other."""
        others = [other.name for other in self._hosts if other is not host]
        kind = self._rng.choice((CUT_OFF, CUT_OFF, ONE_WAY, CUT_PAIR))
        if kind == CUT_PAIR:
            others = [self._rng.choice(others)]
        elif self._rng.random() < 0.3:
            others.append(CLIENT)
        engine = self._engine if self._rng.random() < 0.7 else None
        self._count(kind, host.name, others, engine is not None)
        if engine is not None:
            engine.pause(host.node_id)
        outward = self._rng.random() < 0.5
        for other in others:
            way = (host.name, other) if outward else (other, host.name)
            self._network.cut(*way, both=kind != ONE_WAY)
        await trio.sleep(self._rng.uniform(0.1, self._rng.choice(CUT_MAX_S)))
        self._trace("mended", host.name)
        if engine is not None:
            engine.resume(host.node_id)
        well = [other for other in self._hosts if other.node_id not in self._troubled]
        if well and self._rng.random() < AMBUSH:  # before those that were cut off have caught up
            victim = self._rng.choice(well)
            self._troubled[victim.node_id] = None
            if self._rng.random() < 0.5:
                self._mend(host, others)
                await trio.sleep(self._rng.uniform(0.0, CATCHING_UP_S))
            await self._down(victim, lambda: self._mend(host, others))
            del self._troubled[victim.node_id]
        else:
            self._mend(host, others)

    def _mend(self, host: ClusterHost, others: list[str]) -> None:
        for other in others:
            self._network.mend(host.name, other)

    # --- disks fail ---------------------------------------------------------------------------------

    async def _sick(self, host: ClusterHost) -> None:
        kind = self._rng.choice((SLOW, SLOW, FULL, FAILING))
        if kind == FAILING:
            host = self._frail
            if host.is_down:
                return
        self._count(kind, host.name)
        faults = {SLOW: Faults(slowness=50.0), FULL: Faults(is_full=True), FAILING: Faults(sync_fails=0.2)}
        host.platter.faults = faults[kind]
        await trio.sleep(self._rng.uniform(0.05, SICK_MAX_S))
        host.platter.faults = Faults()
