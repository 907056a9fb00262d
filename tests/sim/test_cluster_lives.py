"""What becomes of a cluster's partitions when nodes come and go, told step by step in virtual time."""

from contextlib import asynccontextmanager
from random import Random

import pytest
import trio

from dduomq.client.client import connect
from dduomq.cluster.ports import Put
from dduomq.errors import DduomqError
from dduomq.testing.clock import SimClock
from dduomq.testing.cluster_host import KILL, STOP, make_hosts, name_of
from dduomq.testing.network import SimNetwork
from dduomq.testing.workload import PORT

TOPICS = "data/topics"


class Cluster:
    """Three machines, and clients that know them all."""

    def __init__(self, nursery, seed=0):
        self.network = SimNetwork(Random(f"network {seed}"))
        self.hosts = make_hosts(3, nursery, self.network, Random(f"hosts {seed}"), lambda *_event: None, None)

    async def start(self, *numbers):
        for number in numbers:
            self.hosts[number - 1].start()
        for number in numbers:
            with trio.fail_after(60):
                await self.hosts[number - 1].wait_ready()

    def host(self, number):
        return self.hosts[number - 1]

    @asynccontextmanager
    async def client(self):
        bootstrap = ",".join(f"{name_of(number)}:{PORT}" for number in (1, 2, 3))
        async with connect(
            bootstrap, dial=self.network.dial_client, rng=Random(5), wall_ms=SimClock().wall_ms, delivery_timeout=20.0
        ) as mq:
            yield mq

    async def send(self, topic, *values):
        async with self.client() as mq:
            for value in values:
                await mq.send(topic, value)

    async def values(self, topic):
        async with self.client() as mq:
            return [record.value.decode() for record in await mq.pull(topic, offset="earliest")]

    async def admin(self, what):
        """Again while it is refused for the moment."""
        with trio.fail_after(60):
            async with self.client() as mq:
                while True:
                    try:
                        return await what(mq)
                    except DduomqError as error:
                        if not error.retriable:
                            raise
                    await trio.sleep(0.5)

    async def make(self, topic, replicas):
        await self.admin(lambda mq: mq.admin.create_topic(topic, assignment=[replicas]))

    def record(self, topic):
        node = next(host.node for host in self.hosts if host.node is not None)
        return node.services.routes.table[topic].records[0]

    async def until(self, condition):
        with trio.fail_after(60):
            while not condition():  # noqa: ASYNC110  # it is seen from outside
                await trio.sleep(0.1)

    def directories(self, number, topic):
        files = self.host(number).platter.files
        return [name for name in files.list(TOPICS) if name.startswith(f"{topic}-")]


@pytest.fixture
async def cluster(autojump_clock, nursery):
    autojump_clock.autojump_threshold = 0
    found = Cluster(nursery)
    await found.start(1, 2, 3)
    return found


async def test_a_topic_that_is_made_anew_has_nothing_that_a_node_slept_through(cluster, autojump_clock):
    """Deleted while node 3 was down, made anew with node 3 as its leader when it is back."""
    await cluster.make("t", [3, 1])
    await cluster.send("t", "old 1", "old 2")
    await cluster.host(3).end(STOP)
    await cluster.admin(lambda mq: mq.admin.delete_topic("t"))
    await cluster.start(3)
    await cluster.make("t", [3, 1])
    await cluster.send("t", "new")
    assert await cluster.values("t") == ["new"]


async def test_a_replica_that_has_moved_away_while_its_node_was_down_is_removed_at_the_start(cluster, autojump_clock):
    await cluster.make("t", [1, 3])
    await cluster.send("t", "1", "2")
    await cluster.host(3).end(STOP)
    assert cluster.directories(3, "t") == ["t-0"]
    await cluster.admin(lambda mq: mq.admin.reassign({("t", 0): [1, 2]}))
    await cluster.until(lambda: cluster.record("t").replicas == (1, 2))
    await cluster.start(3)
    assert cluster.directories(3, "t") == []
    assert cluster.directories(2, "t") == ["t-0"]
    assert await cluster.values("t") == ["1", "2"]


async def test_what_a_node_keeps_stays_over_its_starts(cluster, autojump_clock):
    """The sweep at the start takes nothing that is to be there."""
    await cluster.make("t", [1, 2, 3])
    await cluster.send("t", "1", "2")
    for number in (1, 2, 3):
        await cluster.host(number).end(KILL)
        await cluster.start(number)
        assert cluster.directories(number, "t") == ["t-0"]
    assert await cluster.values("t") == ["1", "2"]


async def test_who_stops_in_good_order_hands_over_the_quorum_too(cluster, nursery, autojump_clock):
    """Nobody waits for an election time-out: whatever is written meanwhile is written at once."""
    leader = next(host for host in cluster.hosts if host.node.services.admin._store.is_leader)
    other = next(host for host in cluster.hosts if host is not leader)
    store, longest = other.node.services.admin._store, 0.0
    is_over = trio.Event()

    async def write():
        nonlocal longest
        while not is_over.is_set():
            begun = trio.current_time()
            await store.txn([Put("/test", b"1")])
            longest = max(longest, trio.current_time() - begun)
            await trio.sleep(0.01)

    nursery.start_soon(write)
    await leader.end(STOP)
    await trio.sleep(2)
    is_over.set()
    assert longest < 0.3


async def test_a_node_that_loses_the_majority_while_it_starts_waits_for_it(cluster, autojump_clock):
    await cluster.make("t", [1, 2, 3])
    await cluster.send("t", "1")
    for number in (1, 2, 3):
        await cluster.host(number).end(KILL)
    cluster.host(1).start()
    await trio.sleep(8)
    assert cluster.host(1).node is None
    await cluster.start(2)
    with trio.fail_after(60):
        await cluster.host(1).wait_ready()
    assert await cluster.values("t") == ["1"]


@pytest.mark.parametrize("away", [1, 2, 3])
@pytest.mark.parametrize("seed", range(5))
async def test_after_a_blackout_those_who_are_back_go_on_without_the_one_who_is_not(
    seed, away, nursery, autojump_clock
):  # fmt: skip
    """Its session, which outlasts it, is no reason to prefer it as the one in sync."""
    autojump_clock.autojump_threshold = 0
    cluster = Cluster(nursery, seed)
    await cluster.start(1, 2, 3)
    for replicas in ([1, 2, 3], [2, 3, 1], [3, 1, 2]):
        await cluster.make(f"t{replicas[0]}", replicas)
        await cluster.send(f"t{replicas[0]}", "1")
    async with trio.open_nursery() as ends:
        for host in cluster.hosts:
            ends.start_soon(host.end, KILL)
    await cluster.start(*({1, 2, 3} - {away}))
    for leader in (1, 2, 3):
        assert await cluster.values(f"t{leader}") == ["1"]
        await cluster.send(f"t{leader}", "2")
    await cluster.start(away)
    for leader in (1, 2, 3):
        await cluster.until(lambda leader=leader: len(cluster.record(f"t{leader}").isr) == 3)
        assert await cluster.values(f"t{leader}") == ["1", "2"]


async def test_a_topic_is_described_though_one_of_its_partitions_has_no_leader(cluster, autojump_clock):
    await cluster.admin(lambda mq: mq.admin.create_topic("t", assignment=[[1], [2], [3]]))
    await cluster.host(2).end(KILL)
    await cluster.until(lambda: cluster.host(1).node.services.routes.table["t"].records[1].leader < 0)
    found = await cluster.admin(lambda mq: mq.admin.describe_topic("t"))
    assert [part.state for part in found.partitions if part.partition != 1] == ["online", "online"]
    assert "no leader" in found.partitions[1].state


async def test_each_node_tells_of_its_own_disk(cluster, autojump_clock):
    await cluster.admin(lambda mq: mq.admin.create_topic("t", assignment=[[1, 2], [2, 3], [3, 1]]))
    for number, kept in ((1, [0, 2]), (2, [0, 1]), (3, [1, 2])):
        states = await cluster.host(number).node.admin.describe_kept("t")
        assert list(states) == kept
