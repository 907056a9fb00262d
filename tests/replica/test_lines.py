"""A follower's line at its leader, with a real server and real followers, and partitions that are played."""

import gc
from random import Random

import attrs
import pytest
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.partition import PartitionActor
from dduomq.actors.partition_messages import FetchPlan, Flush
from dduomq.actors.replica_messages import FollowerAt, Following
from dduomq.actors.replication import Replication, ReplicationWorld
from dduomq.cluster.image import NODES, encode_value
from dduomq.cluster.ports import PeerUnavailable, Put
from dduomq.errors import LeaderNotAvailable, StorageError
from dduomq.listeners import peer_replication
from dduomq.listeners.peer_replication import ReplicaServer
from dduomq.observe import silent_log
from dduomq.testing.clock import SimClock
from dduomq.wire.peer_replication import PeerFetch, PeerFetched, PeerFetchedPart, PeerFetchPart
from tests.replica.cluster import TOPIC_ID, Asker, running

# --- a server over partitions that are played -----------------------------------------------------


class Part:
    """A leader's partition: `end` records; `stuck`: it answers nothing until then."""

    def __init__(self, at):
        self.mailbox = Mailbox(f"p-{at}")
        self.at, self.end = at, 0
        self.watchers = []
        self.stuck = None
        self.asked = 0

    async def run(self):
        while True:
            for message in await self.mailbox.drain():
                self.asked += 1
                if self.stuck is not None:
                    await self.stuck.wait()
                if message.offset >= self.end and message.watcher not in self.watchers:
                    self.watchers.append(message.watcher)
                if message.offset < self.end:
                    message.reply.fail(LeaderNotAvailable("news"))
                else:
                    message.reply.set(FetchPlan(None, 0, 0, 0, 0, 0, log_end_offset=self.end))

    def wake(self):
        watchers, self.watchers = self.watchers, []
        for watcher in watchers:
            watcher.wake()

    def grow(self):
        self.end += 1
        self.wake()


def part(at, number, offset=0):
    return PeerFetchPart("t", at, 0, offset, -1, 1_000_000, 0, number, 0)


async def playing(count, scene):
    async with trio.open_nursery() as nursery:
        parts = [Part(at) for at in range(count)]
        for each in parts:
            nursery.start_soon(each.run)
        server = ReplicaServer(lambda _t, at: parts[at].mailbox, SimClock(), None)

        async def fetch(asked, line=1):
            with trio.move_on_after(12):
                answer, _ = await server.fetch(Asker(2, 1), PeerFetch(5, 2000, 8 << 20, tuple(asked), line), b"")
                return [item.number for item in answer.parts]

        await scene(server, parts, fetch, nursery)
        nursery.cancel_scope.cancel()


async def test_news_of_one_do_not_wait_for_another_that_is_slow(autojump_clock):
    """The fetch that stands first is busy asking; the next one waits, and is not called."""

    async def scene(server, parts, fetch, nursery):
        parts[0].stuck = trio.Event()
        nursery.start_soon(fetch, [part(0, 1)])
        await trio.sleep(0.01)
        began = trio.current_time()
        got = []

        async def second():
            got.append((await fetch([part(1, 2)]), trio.current_time() - began))

        nursery.start_soon(second)
        await trio.sleep(0.1)
        parts[1].grow()
        await trio.sleep(5)
        assert got[0][0] == [2]
        assert got[0][1] < 0.5

    await playing(2, scene)


async def test_a_fetch_does_not_wait_while_more_is_woken_than_it_takes_at_once(autojump_clock):
    """As when a node's death has changed the record of each: all stands are woken, nearly all without news."""
    count = 6_000

    async def scene(server, parts, fetch, nursery):
        for first in range(0, count, 500):
            nursery.start_soon(fetch, [part(at, at + 1) for at in range(first, first + 500)])
            await trio.sleep(0.001)
        await trio.sleep(5)  # all have been answered with nothing
        got = []

        async def listen():
            while True:
                numbers = await fetch(())
                if numbers:
                    got.append((numbers, trio.current_time()))

        nursery.start_soon(listen)
        await trio.sleep(0.1)
        for each in parts:
            each.wake()
        began = trio.current_time()
        parts[-1].grow()
        while not got:  # noqa: ASYNC110  # it is seen from outside
            await trio.sleep(0.01)
        assert got[0][0] == [count]
        assert got[0][1] - began < 0.5

    await playing(count, scene)


async def test_one_that_is_stuck_does_not_hold_up_the_line(autojump_clock):
    """A partition whose log is being opened answers nothing; others of the same question have news at once."""

    async def scene(server, parts, fetch, nursery):
        parts[0].stuck = trio.Event()
        parts[1].end = 1
        began = trio.current_time()
        got = await fetch([part(0, 1), part(1, 2)])
        assert got == [2]
        assert trio.current_time() - began < 0.5

    await playing(2, scene)


# --- in a cluster ---------------------------------------------------------------------------------


async def listen(cluster, line, asker=2, connection=None):
    """What another partition's following keeps going: a fetch that asks nothing new is always there."""
    node = cluster.nodes[asker]
    while True:
        body = PeerFetch(node.epoch, 2_000, 1_000_000, (), line)
        await cluster.nodes[1].server.fetch(
            Asker(asker, node.life if connection is None else connection), body, memoryview(b"")
        )
        await trio.sleep(0.001)


async def test_who_follows_no_more_is_not_in_sync_for_ever(autojump_clock):
    """Its disk has failed, say; the node goes on to fetch other partitions of the same leader."""
    async with running(nodes=2) as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2)
        node = cluster.nodes[2]
        node.mailbox.post(_Break())
        await trio.sleep(0.1)
        line = cluster.nodes[1].server._lines[2].place[1]
        cluster.nursery.start_soon(listen, cluster, line)
        await trio.sleep(120)
        state = await node.describe()
        assert state.state == "offline"
        isr = (await cluster.record())[0].isr
        await cluster.nodes[1].kill()
        await cluster.away(1)
        record = (await cluster.record())[0]
        assert (isr, record.isr, record.leader) == ((1,), (1,), -1)  # only node 1 has what was acked


def _Break():
    return Flush()


@pytest.fixture(autouse=True)
def _breaking(monkeypatch, request):
    """`Flush` at node 2 is a failing disk."""
    if "no_more" not in request.node.name:
        return

    def on_flush(self, _message):
        if self._world.node_id == 2 and self._offline is None:
            self._go_offline(StorageError("EIO"))

    monkeypatch.setattr(PartitionActor, "_on_flush", on_flush)


async def test_who_was_taken_out_must_ask_anew_itself(autojump_clock):
    """The record says that node 2 is in sync no more: it was let go and given the replica again, empty, meanwhile."""
    async with running(nodes=2, start=False, isr=(1,)) as cluster:
        await cluster.nodes[1].start()
        two = cluster.nodes[2]
        two.life, two.epoch = 1, await cluster.store.txn([Put(f"{NODES}2", encode_value(1))])
        await cluster.send(1, b"0")
        asked = PeerFetchPart(TOPIC_ID, 0, 0, 1, 0, 1_000_000, 0, 1, 1)
        await cluster.nodes[1].server.fetch(Asker(2, 1), PeerFetch(two.epoch, 100, 1_000_000, (asked,), 1), b"")
        await cluster.until_isr(1, 2)
        cluster.nursery.start_soon(listen, cluster, 1, 2, 1)
        await trio.sleep(0.5)
        # both records come as one: removed, and added again
        await cluster.change(lambda record: attrs.evolve(record, isr=(1,)))
        for _ in range(200):
            await trio.sleep(0.1)
            assert (await cluster.record())[0].isr == (1,), "nobody has asked since"


async def test_a_quiet_partition_keeps_no_watchers_that_are_gone(autojump_clock):
    """A new line each five minutes, and at each registration."""
    async with running(nodes=2) as cluster:
        await cluster.send(1, b"0")
        await cluster.until_alike(1, 2)
        watchers = _watchers(cluster.nodes[1])
        await trio.sleep(100 * 301)
        assert len(watchers()) < 5


def _watchers(node):
    (actor,) = [one for one in gc.get_objects() if isinstance(one, PartitionActor) and one.mailbox is node.mailbox]
    return lambda: actor._replica.watchers


async def test_a_cold_read_for_one_holds_up_no_other(autojump_clock, monkeypatch):
    """While a fetch reads from the disk it stands first in the line, and is the only one that is called."""
    go = trio.Event()

    async def slow(disk, lease, position, size):
        await go.wait()

    monkeypatch.setattr(peer_replication, "make_resident", slow)

    async def scene(server, parts, fetch, nursery):
        class Lease:
            def read(self, position, size):
                return bytes(size)

            def close(self):
                pass

        async def cold():
            for message in await parts[2].mailbox.drain():
                message.reply.set(FetchPlan(Lease(), 0, 10, 0, 0, 0, log_end_offset=10, next_offset=1))

        parts.append(Part(2))
        nursery.start_soon(cold)
        nursery.start_soon(fetch, [part(2, 1)])
        await trio.sleep(0.01)
        began, got = trio.current_time(), []

        async def second():
            got.append((await fetch([part(1, 2)]), trio.current_time() - began))

        nursery.start_soon(second)
        await trio.sleep(0.1)
        parts[1].grow()
        await trio.sleep(5)
        assert got[0][0] == [2]
        assert got[0][1] < 0.5

    await playing(2, scene)


# --- both sides, over partitions that are played ---------------------------------------------------


class World:
    """A follower's links straight to a `ReplicaServer`, with delays by chance and connections that break."""

    def __init__(self, parts, rng, delay_s=0.003):
        self.parts, self.rng, self.delay_s = parts, rng, delay_s
        self.connection = 1
        self.is_up = True
        self.scopes = set()
        self.sent = 0
        self.new_server()

    def new_server(self):
        self.server = ReplicaServer(lambda _t, at: self.parts[at].mailbox, SimClock(), None)

    def link(self, _node_id):
        return self

    async def request(self, body, payload=(), *, timeout_s):
        self.sent += 1
        if not self.is_up:
            raise PeerUnavailable("down")
        connection = self.connection
        with trio.move_on_after(timeout_s), trio.CancelScope() as scope:
            self.scopes.add(scope)
            try:
                await trio.sleep(self.delay_s)  # in order, as on a connection
                answer, chunks = await self.server.fetch(Asker(2, connection), body, b"")
                data = b"".join(chunks)
                await trio.sleep(self.rng.uniform(0, self.delay_s))
                if connection == self.connection and self.is_up:
                    return answer, memoryview(data)
            finally:
                self.scopes.discard(scope)
        raise PeerUnavailable("it broke")

    def break_off(self):
        self.is_up = False
        self.connection += 1
        for scope in list(self.scopes):
            scope.cancel()


class Log(Part):
    """With bytes for records."""

    def __init__(self, at, rng):
        super().__init__(at)
        self.rng, self.leases, self.mark = rng, 0, 0

    async def run(self):
        while True:
            for message in await self.mailbox.drain():
                if self.rng.random() < 0.05:
                    await trio.sleep(self.rng.uniform(0, 0.02))
                self.asked += 1
                size = self.end - message.offset
                assert size >= 0
                if size:
                    self.leases += 1
                    message.reply.set(
                        FetchPlan(
                            _Lease(self),
                            0,
                            size,
                            self.end,
                            0,
                            0,
                            log_end_offset=self.end,
                            next_offset=self.end,
                            is_resident=True,
                        )
                    )
                    continue
                if message.watcher not in self.watchers:
                    self.watchers.append(message.watcher)
                message.reply.set(FetchPlan(None, 0, 0, self.end, 0, 0, log_end_offset=self.end))


class _Lease:
    def __init__(self, log):
        self.log = log

    def read(self, position, size):
        return bytes(size)

    def close(self):
        self.log.leases -= 1


@pytest.mark.parametrize("seed", range(12))
async def test_whatever_happens_all_comes_soon(autojump_clock, seed):
    rng = Random(seed)
    count = 40
    async with trio.open_nursery() as nursery:
        logs = [Log(at, rng) for at in range(count)]
        for each in logs:
            nursery.start_soon(each.run)
        world = World(logs, rng)
        epoch = [5]
        replication = Replication(ReplicationWorld(world, lambda: epoch[0], SimClock(), silent_log()))
        nursery.start_soon(replication.run)
        boxes = [Mailbox(f"f-{at}") for at in range(count)]
        offsets = [0] * count

        async def follow(at):
            while True:
                for message in await boxes[at].drain():
                    if message.offset == offsets[at]:
                        await trio.sleep(rng.uniform(0, 0.005))
                        offsets[at] += len(message.data)
                    message.reply.set(FollowerAt(offsets[at], 0))

        def begin(at):
            replication.follow(Following(boxes[at], "t", at, 1, 0, offsets[at], -1))

        for at in range(count):
            nursery.start_soon(follow, at)
            begin(at)
        worst = 0.0
        for _ in range(300):
            for _ in range(rng.randrange(6)):
                kind, at = rng.random(), rng.randrange(count)
                if kind < 0.7:
                    logs[at].grow()
                elif kind < 0.8:
                    replication.unfollow(boxes[at])
                    begin(at)
                elif kind < 0.85:
                    epoch[0] += 1
                elif kind < 0.88:
                    world.break_off()
                    await trio.sleep(rng.uniform(0, 0.1))
                    world.is_up = True
                elif kind < 0.9:
                    world.break_off()
                    world.new_server()
                    world.is_up = True
                elif kind < 0.95:
                    logs[at].wake()
                await trio.sleep(rng.choice([0, 0, 0.001, 0.003]))
            began = trio.current_time()
            if rng.random() < 0.3:
                while [log.end for log in logs] != offsets:
                    await trio.sleep(0.01)
                    assert trio.current_time() - began < 20, [at for at in range(count) if logs[at].end != offsets[at]]
                worst = max(worst, trio.current_time() - began)
                if rng.random() < 0.2:
                    await trio.sleep(rng.uniform(0, 5))
        sent = world.sent
        await trio.sleep(20)
        assert (world.sent - sent) / 20 < 2
        assert not sum(log.leases for log in logs)
        assert worst < 2.5
        nursery.cancel_scope.cancel()


async def test_one_stuck_partition_does_not_stop_all_of_the_line(autojump_clock):
    """Its actor has crashed and its log is read again, say: the one fetch there is waits for its answer."""
    async with trio.open_nursery() as nursery:
        logs = [Part(at) for at in range(3)]
        for each in logs:
            nursery.start_soon(each.run)
        world = World(logs, Random(1))
        replication = Replication(ReplicationWorld(world, lambda: 5, SimClock(), silent_log()))
        nursery.start_soon(replication.run)
        boxes = [Mailbox(f"f-{at}") for at in range(3)]
        for at in range(3):
            replication.follow(Following(boxes[at], "t", at, 1, 0, 0, -1))

        async def say(box):
            while True:
                for message in await box.drain():
                    message.reply.set(FollowerAt(0, 0))

        for box in boxes:
            nursery.start_soon(say, box)
        await trio.sleep(5)
        logs[0].stuck = trio.Event()
        logs[0].wake()
        await trio.sleep(0.1)
        logs[1].grow()
        logs[1].end = 1
        asked, began = logs[1].asked, trio.current_time()
        line = world.server._lines[2]
        silent = 0.0
        while logs[1].asked == asked:
            await trio.sleep(0.05)
            silent = max(silent, trio.current_time() - line.heard_at)
        assert trio.current_time() - began < 3, (trio.current_time() - began, silent)
        nursery.cancel_scope.cancel()


async def test_a_log_start_that_can_not_be_moved_is_not_asked_for_without_pause(autojump_clock):
    asked = []

    class Leader:
        def link(self, _node):
            return self

        async def request(self, body, payload=(), *, timeout_s):
            asked.append(body)
            await trio.sleep(0.001)
            if not body.parts:
                await trio.sleep(2)
                return PeerFetched(()), memoryview(b"")
            return PeerFetched(
                tuple(PeerFetchedPart(0, None, 10, 5, 10, 0, number=one.number) for one in body.parts)
            ), memoryview(b"")

    async with trio.open_nursery() as nursery:
        replication = Replication(ReplicationWorld(Leader(), lambda: 5, SimClock(), silent_log()))
        nursery.start_soon(replication.run)
        box = Mailbox("f")
        replication.follow(Following(box, "t", 0, 1, 0, 10, 0, 0))

        async def follow():  # its disk does not remove what is before 5
            while True:
                for message in await box.drain():
                    message.reply.set(FollowerAt(10, 0, 0))

        nursery.start_soon(follow)
        await trio.sleep(2)
        assert len(asked) < 100
        nursery.cancel_scope.cancel()
