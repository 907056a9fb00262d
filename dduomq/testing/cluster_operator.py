"""An operator of a simulated cluster: moves partitions, gives moves up, elects preferred leaders, drains nodes.

Always true: what it began has an end, or was given up, when `settle` returns; no node is draining then.
"""

from functools import partial

import trio

from dduomq.client.client import Client
from dduomq.errors import DduomqError, InvalidReplicaAssignment
from dduomq.testing.workload import World, persist

PAUSE_S = (0.3, 2.0)
PATIENCE_S = 5.0
LOOK_S = 0.5


class ClusterOperator:
    """`topics`: whose partitions are moved. `nodes`: the numbers of all nodes."""

    def __init__(self, world: World, topics: tuple[str, ...], nodes: list[int]) -> None:
        self._world = world
        self._topics = topics
        self._nodes = nodes
        self._rng = world.fork()
        self.done: dict[str, int] = {}

    async def run(self) -> None:
        while self._world.sending:
            await trio.sleep(self._rng.uniform(*PAUSE_S))
            try:
                with trio.move_on_after(PATIENCE_S):
                    async with self._world.connect("cluster-operator") as mq:
                        await self._do_something(mq)
            except DduomqError as error:
                self._world.trace("cluster operator", error.code)

    async def _do_something(self, mq: Client) -> None:
        kind = self._rng.random()
        place = (self._rng.choice(self._topics), self._rng.randrange(self._world.partitions))
        if kind < 0.4:
            replicas = self._rng.sample(self._nodes, min(self._rng.choice((2, 3, 3)), len(self._nodes)))
            await mq.admin.reassign({place: replicas})
            self._note("reassignment", *place, replicas)
        elif kind < 0.5:
            await mq.admin.reassign({place: None})
            self._note("move given up", *place)
        elif kind < 0.8:
            await mq.admin.elect_leaders()
            self._note("preferred leaders")
        else:
            node = self._rng.choice(self._nodes)
            await mq.admin.drain_node(node)
            self._note("drained node", node)
            await trio.sleep(self._rng.uniform(0.0, 1.0))
            await mq.admin.undrain_node(node)

    def _note(self, what: str, *details: object) -> None:
        self._world.trace(what, *details)
        self.done[what] = self.done.get(what, 0) + 1

    async def settle(self) -> None:
        """No node is draining any more."""
        async with self._world.connect("cluster-operator") as mq:
            for node in self._nodes:
                await persist(partial(mq.admin.undrain_node, node))

    async def move(self) -> None:
        """A partition loses a replica, and gets it back: only a controller brings that to its end."""
        async with self._world.connect("cluster-operator") as mq:
            for count in (2, 3):
                await self._to(mq, {(self._topics[0], 0): self._nodes[:count]})

    async def spread(self) -> None:
        """Every partition has three replicas again: it goes on without any one of them."""
        places = [(topic, at) for topic in self._topics for at in range(self._world.partitions)]
        async with self._world.connect("cluster-operator") as mq:
            await self._to(mq, {place: self._rng.sample(self._nodes, 3) for place in places})

    async def _to(self, mq: Client, moves: dict[tuple[str, int], list[int]]) -> None:
        await persist(partial(self._reassign, mq, moves))
        await persist(partial(self._until_moved, mq))

    async def _reassign(self, mq: Client, moves: dict[tuple[str, int], list[int]]) -> None:
        """As soon as all of them are known to be alive."""
        while True:
            try:
                await mq.admin.reassign(moves)
                return
            except InvalidReplicaAssignment:
                await trio.sleep(LOOK_S)

    async def _until_moved(self, mq: Client) -> None:
        while (await mq.admin.cluster_status()).moving:  # noqa: ASYNC110  # it is seen from outside
            await trio.sleep(LOOK_S)
