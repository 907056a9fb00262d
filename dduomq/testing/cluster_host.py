"""One machine of a simulated cluster: its disk, its clock, its place on the network, and the node's lives on it.

Always true: what a killed node still does reaches neither its disk nor its network; the next life begins with what
the disk has. A node that can't start yet is started again and again, as a service manager does.
"""

from collections.abc import Callable, Collection
from functools import partial
from random import Random

import attrs
import structlog
import trio

from dduomq import limits
from dduomq.builder import Node
from dduomq.cluster.ports import MetadataStore
from dduomq.config import Config, from_values
from dduomq.engine import EngineMaker, open_engine
from dduomq.errors import ConfigError, ListenError, StorageError
from dduomq.listeners.peer import PeerServer
from dduomq.node import build
from dduomq.observe import silent_log
from dduomq.ports import Ports
from dduomq.testing.clock import SimClock
from dduomq.testing.disk import Faults, Platter, SimDisk
from dduomq.testing.network import SimListener, SimMachine, SimNetwork, SimStream
from dduomq.testing.store import MemoryEngine
from dduomq.testing.workload import PORT

STOP, KILL, POWER = "stop", "kill", "power loss"
SECRET = "of the simulation"
CLUSTER_ID = "0123456789abcdef0123456789abcdef"
AGAIN_S = 0.2
LAG_MAX_MS = 2 * limits.REPLICA_FETCH_WAIT_MS + 500
HEAL_S = 300.0


class LifeNetwork:
    """The network of one life of a node: a dead one neither dials nor listens."""

    def __init__(self, machine: SimMachine) -> None:
        self._machine = machine
        self.is_dead = False

    async def listen(self, host: str, port: int) -> SimListener:
        if self.is_dead:
            raise ListenError("the machine has no power")
        return await self._machine.listen(host, port)

    async def dial(self, host: str, port: int) -> SimStream:
        if not self.is_dead:
            stream = await self._machine.dial(host, port)
            if not self.is_dead:
                return stream
            stream.break_off()
        raise ConnectionRefusedError("the machine has no power")


class Life:
    """From a start of the node to its end. `is_ready`: it has come up."""

    def __init__(self, network: LifeNetwork) -> None:
        self.network = network
        self.over, self.ended = trio.Event(), trio.Event()
        self.scope = trio.CancelScope()
        self.node: Node | None = None


@attrs.define
class OutsideEngine:
    """A metadata engine that is no part of the cluster: it is always there, though it can't always be reached."""

    store: MetadataStore

    async def prepare(self, _peers: PeerServer) -> None:
        """It asks nothing of the nodes."""

    async def open(self, _nursery: trio.Nursery) -> str:
        return CLUSTER_ID

    async def leave(self) -> None:
        """It goes on."""

    @property
    def members(self) -> Collection[int]:
        return ()

    async def forget(self, _node_id: int) -> None:
        """It knows of nodes only what they say themselves."""


def name_of(node_id: int) -> str:
    return f"node-{node_id}"


def settings_of(node_id: int, nodes: int) -> dict[str, str]:
    """A node's configuration in a simulated cluster of so many."""
    values = {
        "id": str(node_id),
        "data": "data",
        "listen": f"{name_of(node_id)}:{PORT}",
        "plaintext.allowed": "true",
        "cluster.secret": SECRET,
        "topic.segment.bytes": "4096",
        "topic.index.interval.bytes": "256",
        "topic.flush.ms": "200",
        "retention.check.interval.ms": "1000",
        "replica.lag.max.ms": str(LAG_MAX_MS),
    }
    if nodes > 1:
        values["peers"] = ",".join(f"{other}@{name_of(other)}:{PORT}" for other in range(1, nodes + 1))
    return values


class ClusterHost:
    """`trace` is told what happens. The nursery is the run's own: jobs of the disk live in it."""

    def __init__(
        self,
        settings: dict[str, str],
        nursery: trio.Nursery,
        network: SimNetwork,
        rng: Random,
        trace: Callable[..., None],
        engine: MemoryEngine | None = None,
        log: structlog.stdlib.BoundLogger | None = None,
    ) -> None:
        self.engine = engine
        self.node_id = int(settings["id"])
        self.name = name_of(self.node_id)
        self.config: Config = from_values(settings)
        self.clock = SimClock()
        self.platter = Platter(Random(rng.random()))
        self._machine = network.at(self.name)
        self._nursery = nursery
        self._rng = rng
        self._trace = trace
        self._log = log or silent_log()
        self._life: Life | None = None

    @property
    def node(self) -> Node | None:
        """The one that serves, if there is one."""
        life = self._life
        return None if life is None or life.network.is_dead else life.node

    @property
    def is_down(self) -> bool:
        """Nobody has started it, or it was ended."""
        return self._life is None

    def start(self) -> None:
        """Begin a life; it may take a while until it is ready."""
        assert self._life is None
        self._life = Life(LifeNetwork(self._machine))
        self._nursery.start_soon(self._live, self._life)

    async def end(self, kind: str) -> None:
        """The life is over, by a stop in good order, a kill or a power loss."""
        life = self._life
        assert life is not None
        self._trace(kind, self.name)
        if kind != STOP:
            life.network.is_dead = True
            if self.engine is not None:
                self.engine.pause(self.node_id)
            self._machine.crash()
            if kind == POWER:
                self.platter.lose_power()
            else:
                self.platter.kill()
        life.over.set()
        life.scope.cancel()
        with trio.fail_after(HEAL_S):
            await life.ended.wait()
        self._machine.crash()
        if self.engine is not None:
            self.engine.resume(self.node_id)
        self._life = None
        self.platter.faults = Faults()

    async def wait_ready(self) -> None:
        while self.node is None:  # noqa: ASYNC110  # it is seen from outside
            await trio.sleep(AGAIN_S)

    async def _live(self, life: Life) -> None:
        try:
            with life.scope:
                while not life.over.is_set():
                    await self._live_once(life)
                    await trio.sleep(AGAIN_S)
        except ExceptionGroup:  # whatever a killed node died of is nobody's business
            if not life.network.is_dead:
                raise
        life.ended.set()

    async def _live_once(self, life: Life) -> None:
        disk = SimDisk(self._nursery, self.platter, Random(self._rng.random()))
        ports = Ports(self.clock, life.network, disk, Random(self._rng.random()), self.platter.files)
        try:
            async with build(ports, self.config, log=self._log, make_engine=self._make_engine()) as life.node:
                self._trace("ready", self.name)
                await life.over.wait()
        except (ConfigError, StorageError) as error:  # a node that has given up says why
            self._trace("no start" if life.node is None else "given up", self.name, error.message)
            if isinstance(error, ConfigError) and life.node is not None:
                raise
        finally:
            life.node = None

    def _make_engine(self) -> EngineMaker:
        """The metadata are the cluster's own, or in an engine outside."""
        engine = self.engine
        if engine is None:
            return open_engine
        return lambda *_: OutsideEngine(engine.store(self.node_id, self.config.session_timeout_ms / 1000))


def make_hosts(
    count: int,
    nursery: trio.Nursery,
    network: SimNetwork,
    rng: Random,
    trace: Callable[..., None],
    engine: MemoryEngine | None,
) -> list[ClusterHost]:
    """So many machines, none of them started."""
    make = partial(ClusterHost, nursery=nursery, network=network, trace=trace, engine=engine)
    return [make(settings_of(node_id, count), rng=Random(rng.random())) for node_id in range(1, count + 1)]
