"""The router: partitions are what the newest of the metadata wants, and no topic gets another one's files."""

from random import Random

import attrs
import pytest
import trio

from dduomq.actors.actor import Mailbox, Reply, ask
from dduomq.actors.disk import DiskActor
from dduomq.actors.partition_messages import Append, Describe
from dduomq.actors.partition_world import PartitionWorld
from dduomq.actors.router import (
    AwaitOpen,
    AwaitTopic,
    CloseAll,
    PartitionSeen,
    PartitionsSeen,
    RouterActor,
    RouterSetup,
    TopicSeen,
    TopicsSeen,
)
from dduomq.actors.routes import Routes
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import PartitionRecord, TopicRecord
from dduomq.log.memory import MemoryFiles
from dduomq.log.plans import PendingBatch
from dduomq.log.settings import TopicSettings
from dduomq.observe import silent_log
from dduomq.testing.clock import SimClock
from dduomq.testing.disk import Platter, SimDisk
from dduomq.wire.batch import read_header
from dduomq.wire.records import BatchBuilder

ME = 1
OLD, NEW = f"{1:032x}", f"{2:032x}"


class Host:
    """A node of a cluster of which only the router runs, and what it starts."""

    def __init__(self, nursery):
        self.platter = Platter(Random(1))
        self.files = self.platter.files
        self.routes = Routes(ME)
        self.router = Mailbox("router")
        self.nursery = nursery

    async def start(self):
        log, clock = silent_log(), SimClock()
        supervisor = Supervisor(self.nursery, log)
        disk = Mailbox("disk", messages_max=1_000_000)
        executor = SimDisk(self.nursery, self.platter, Random(2))
        supervisor.start(disk, lambda box: DiskActor(box, executor))
        world = PartitionWorld(clock, self.files, MemoryFiles(), disk, Mailbox("janitor"), log, node_id=ME)
        setup = RouterSetup(
            world, supervisor, "topics", 0, False, lambda _record: TopicSettings.from_config({}),
            lambda topic, _id, at: Mailbox(f"door to {topic}-{at}"),
        )  # fmt: skip
        supervisor.start(self.router, lambda box: RouterActor(box, setup, self.routes))
        await self.router.put(PartitionsSeen(partitions=(), is_whole=True))
        await self.router.put(TopicsSeen(topics=()))
        await ask(self.router, lambda reply: AwaitOpen(reply=reply))
        return self

    async def topic(self, topic_id, version):
        record = TopicRecord("t", topic_id, 1, 1, {}, 0, "", "")
        await self.router.put(TopicSeen(name="t", record=record, version=version))

    async def gone(self, version):
        await self.router.put(TopicSeen(name="t", record=None, version=version))

    async def partition(self, topic_id, replicas, version, epoch=0):
        record = PartitionRecord("t", topic_id, 0, replicas, replicas[0], epoch, replicas[:1])
        await self.router.put(PartitionsSeen(partitions=(PartitionSeen(topic_id, 0, record, version),)))

    async def settled(self, version=0):
        await trio.sleep(1)
        with trio.fail_after(60):
            await ask(self.router, lambda reply: AwaitTopic(name="t", version=version, reply=reply))

    async def append(self):
        builder = BatchBuilder()
        builder.append(1, None, b"v", [])
        data = builder.build()
        batch = PendingBatch(memoryview(data), read_header(data))
        mailbox = self.routes.partition("t", 0)
        with trio.fail_after(60):
            await ask(mailbox, lambda reply: Append(batch=batch, deadline=trio.current_time() + 20, reply=reply))

    async def end_offset(self):
        state = await ask(self.routes.partition("t", 0), lambda reply: Describe(reply=reply))
        return state.log.log_end_offset

    def directories(self):
        return self.files.list("topics")


@pytest.fixture
async def host(autojump_clock, nursery):
    autojump_clock.autojump_threshold = 0
    return await Host(nursery).start()


async def test_an_older_record_that_is_told_late_takes_no_replica_away(host, autojump_clock):
    """An engine may tell of a change after a scan has shown a newer one: it may name other replicas."""
    await host.topic(OLD, 5)
    await host.partition(OLD, (ME, 2), 9)
    await host.settled(5)
    await host.append()
    await host.partition(OLD, (2, 3), 7)
    await trio.sleep(1)
    await host.partition(OLD, (ME, 2), 9)
    await host.settled()
    assert await host.end_offset() == 1
    assert host.directories() == ["t-0"]


async def test_an_older_topic_of_a_name_that_is_told_late_deletes_nothing(host, autojump_clock):
    await host.topic(NEW, 9)
    await host.partition(NEW, (ME,), 9)
    await host.settled(9)
    await host.append()
    await host.topic(OLD, 5)
    await trio.sleep(1)
    await host.gone(7)
    await host.topic(NEW, 9)
    await host.settled()
    assert await host.end_offset() == 1


async def test_all_that_there_is_counts_even_if_it_is_older(host, autojump_clock):
    """An engine was put back to an older state: what it shows now is the truth."""
    await host.topic(NEW, 9)
    await host.partition(NEW, (ME,), 9)
    await host.settled(9)
    record = TopicRecord("t", OLD, 1, 1, {}, 0, "", "")
    seen = PartitionSeen(OLD, 0, PartitionRecord("t", OLD, 0, (ME,), ME, 0, (ME,)), 3)
    await host.router.put(PartitionsSeen(partitions=(seen,), is_whole=True))
    await host.router.put(TopicsSeen(topics=((record, 3),)))
    await host.settled()
    assert host.routes.table["t"].record.topic_id == OLD
    await host.topic(attrs.evolve(record, topic_id=OLD).topic_id, 4)
    await host.settled(4)
    assert host.routes.table["t"].record.topic_id == OLD


@pytest.mark.parametrize("leader", [(ME, 2), (2, ME)])
async def test_a_topic_that_is_made_anew_has_nothing_of_the_one_before(host, leader, autojump_clock):
    """The old one was deleted while this node was not there, so that its files are still in the way."""
    await host.topic(OLD, 5)
    await host.partition(OLD, (ME,), 5)
    await host.settled(5)
    await host.append()
    files = {name: host.files.read(f"topics/t-0/{name}") for name in host.files.list("topics/t-0")}
    await host.gone(6)
    await host.settled(6)
    assert host.directories() == []
    host.files.make_dir("topics/t-0")
    for name, data in files.items():
        host.files.replace(f"topics/t-0/{name}", data)
    await host.topic(NEW, 8)
    await host.partition(NEW, leader, 8)
    await host.settled(8)
    state = await ask(host.routes.replica("t", 0), lambda reply: Describe(reply=reply))
    assert state.log.log_end_offset == 0
    assert host.directories() == ["t-0", f"t-0.{OLD}.stray"]


async def test_nothing_is_begun_once_all_is_being_closed(host, autojump_clock):
    """Its log would be open when the directory is said to be clean."""
    await host.topic(OLD, 5)
    await host.partition(OLD, (ME,), 5)
    await host.settled(5)
    closed = Reply()
    await host.router.put(CloseAll(reply=closed))
    await host.partition(NEW, (ME,), 6)
    await host.router.put(TopicSeen(name="u", record=TopicRecord("u", NEW, 1, 1, {}, 0, "", ""), version=6))
    with trio.fail_after(60):
        await closed.wait()
    await trio.sleep(1)
    assert host.directories() == ["t-0"]
