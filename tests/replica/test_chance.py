"""Kills, power cuts, cuts of links and failing disks by chance: what was acked stays, once, at its offset, on all."""

from random import Random

import attrs
import pytest
import trio
import trio.testing

from dduomq.actors.actor import ask
from dduomq.actors.partition_messages import Restore
from dduomq.errors import DduomqError, OffsetOutOfRange
from dduomq.testing.clock import SeededScheduler
from dduomq.wire.batch import iter_headers
from dduomq.wire.records import decode
from tests.replica.cluster import running

PID = 77
BATCHES = 60
SEEDS = range(12)


class Story:
    """One run: a producer, a reader, whoever does harm, and a controller that hears of it a while later."""

    def __init__(self, cluster, rng, kinds):
        self.cluster, self.rng, self.kinds = cluster, rng, kinds
        self.acked = {}
        self.seen = {}
        self.done = False
        self.away = 0

    async def produce(self):
        for sequence in range(BATCHES):
            value = b"%d" % sequence
            acked = await self.cluster.send_to_leader(
                value, producer_id=PID, producer_epoch=0, base_sequence=sequence, timeout_s=600
            )
            assert acked.base_offset not in self.acked
            self.acked[acked.base_offset] = value
            await trio.sleep(self.rng.uniform(0, 0.5))
        self.done = True

    async def consume(self):
        """Whatever was shown once at an offset stays what it was."""
        while not self.done:
            await trio.sleep(self.rng.uniform(0, 0.3))
            record, _ = await self.cluster.record()
            node = self.cluster.nodes.get(record.leader)
            if node is None or not node.is_up:
                continue
            try:
                with trio.move_on_after(2):
                    await self.look(record.leader)
            except DduomqError as error:
                if not error.retriable and not isinstance(error, OffsetOutOfRange):
                    raise

    async def look(self, leader):
        plan = await self.cluster.read(leader, self.rng.randrange(max(len(self.seen), 1)))
        if plan.lease is None:
            return
        data = plan.lease.read(plan.position, plan.size)
        plan.close()
        for position, header in iter_headers(data):
            assert header.last_offset < plan.high_watermark
            for record in decode(memoryview(data)[position : position + header.size]):
                assert self.seen.setdefault(record.offset, bytes(record.value)) == bytes(record.value)

    async def harm(self):
        while not self.done:
            await trio.sleep(self.rng.uniform(0.2, 3))
            await getattr(self, self.rng.choice(self.kinds))()

    async def kill(self, *, power=False):
        up = [node for node in self.cluster.nodes.values() if node.is_up]
        if len(up) < 2:
            return
        node = self.rng.choice(up)
        self.away += 1
        await node.kill(power=power)
        self.cluster.nursery.start_soon(self.bring_back, node, self.rng.uniform(0, 4))

    async def power(self):
        await self.kill(power=True)

    async def bring_back(self, node, seconds):
        """The controller hears of it when the session ends, or when the node comes back, whichever is first."""
        session = 1.0
        await trio.sleep(min(seconds, session))
        if seconds >= session:
            await self.cluster.away(node.node_id)
            await self.cluster.lead()
            await trio.sleep(seconds - session)
        await node.start()
        await trio.sleep(self.rng.uniform(0, 0.3))
        if seconds < session and node.is_up:
            await self.cluster.away(node.node_id)
        await self.cluster.lead()
        self.away -= 1

    async def cut(self):
        pair = tuple(self.rng.sample(sorted(self.cluster.nodes), 2))
        self.cluster.cuts.add(pair)
        self.cluster.nursery.start_soon(self.mend, pair, self.rng.choice([0.5, 3, 15]))

    async def mend(self, pair, seconds):
        await trio.sleep(seconds)
        self.cluster.cuts.discard(pair)

    async def move(self):
        def elsewhere(record):
            isr = [node for node in record.isr if self.cluster.nodes[node].is_up]
            return attrs.evolve(record, leader=self.rng.choice(isr)) if isr else None

        await self.cluster.change(elsewhere)

    async def bug(self):
        self.rng.choice(list(self.cluster.nodes.values())).platter.bugs = 1

    async def disk(self):
        node = self.rng.choice(list(self.cluster.nodes.values()))
        node.platter.faults.sync_fails = 0.5
        await trio.sleep(self.rng.uniform(0.1, 2))
        node.platter.faults.sync_fails = 0.0
        await self.restore(node)

    async def full(self):
        node = self.rng.choice(list(self.cluster.nodes.values()))
        node.platter.faults.is_full = True
        await trio.sleep(self.rng.uniform(0.1, 3))
        node.platter.faults.is_full = False
        await self.restore(node)

    async def restore(self, node):
        with trio.move_on_after(5):
            while node.is_up and (await node.describe()).state == "offline":
                try:
                    await ask(node.mailbox, lambda reply: Restore(reply=reply))
                except DduomqError:
                    await trio.sleep(0.2)

    async def all_are_back(self):
        return not self.away

    async def heal(self):
        """Everything is mended; in the end all have the same."""
        cluster = self.cluster
        cluster.cuts.clear()
        for node in cluster.nodes.values():
            node.platter.faults.sync_fails, node.platter.faults.is_full, node.platter.bugs = 0.0, False, 0
        with trio.fail_after(300):
            await cluster.until(self.all_are_back, 100)
            while True:
                for node in cluster.nodes.values():
                    if node.is_up and (await node.describe()).state == "offline":
                        await self.restore(node)
                record, _ = await cluster.record()
                if len(record.isr) == len(cluster.nodes) and record.leader != -1:
                    break
                if record.leader != -1 and not cluster.nodes[record.leader].is_up:
                    await cluster.away(record.leader)
                await cluster.lead()
                await trio.sleep(0.5)
        await cluster.until_alike(*cluster.nodes, timeout_s=120)

    def check(self):
        for node in self.cluster.nodes.values():
            values = node.values()
            held = dict(values)
            assert len(held) == len(values)
            for offset, value in self.acked.items():
                assert held.get(offset) == value, f"node {node.node_id}: offset {offset}"
            for offset, value in self.seen.items():
                assert held.get(offset) == value, f"node {node.node_id}: offset {offset} was shown"
            mine = [value for _, value in values]
            assert len(mine) == len(set(mine)), "a retry was stored twice"


async def story(seed, kinds, **config):
    async with running(seed=seed, **config) as cluster:
        told = Story(cluster, Random(seed), kinds)
        with trio.fail_after(3_000):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(told.produce)
                nursery.start_soon(told.consume)
                nursery.start_soon(told.harm)
            await told.heal()
        told.check()
        assert len(told.acked) == BATCHES


def run(seed, kinds, **config):
    with SeededScheduler(seed):
        trio.run(story_of(seed, kinds, config), clock=trio.testing.MockClock(autojump_threshold=0))


def story_of(seed, kinds, config):
    async def main():
        await story(seed, kinds, **config)

    return main


@pytest.mark.parametrize("seed", SEEDS)
def test_processes_die(seed):
    run(seed, ["kill", "cut", "move"], min_insync_replicas="2", segment_bytes="2048")


@pytest.mark.parametrize("seed", SEEDS)
def test_power_goes(seed):
    run(seed, ["kill", "power", "cut", "move"], min_insync_replicas="2", segment_bytes="2048")


@pytest.mark.parametrize("seed", SEEDS)
def test_power_goes_and_one_in_sync_is_enough(seed):
    run(seed, ["kill", "power", "move", "cut"], segment_bytes="2048")


@pytest.mark.parametrize("seed", SEEDS)
def test_disks_fail(seed):
    run(seed, ["kill", "power", "disk", "full", "bug", "cut"], min_insync_replicas="2", segment_bytes="2048")


@pytest.mark.parametrize("seed", SEEDS)
def test_processes_die_with_less_than_fsync(seed):
    run(seed, ["kill", "cut", "move"], min_insync_replicas="2", durability="pagecache", segment_bytes="2048")
