"""What an operator does to a cluster: topics with replicas, moves, elections, nodes that drain."""

from random import Random

import attrs
import pytest
import trio

from dduomq.actors.actor import Mailbox
from dduomq.actors.admin import Admin, TopicDefaults
from dduomq.actors.cluster_admin import ClusterAdmin
from dduomq.actors.registration import Registration
from dduomq.actors.router import AwaitTopic
from dduomq.actors.routes import Routes, TopicRoute
from dduomq.cluster.image import (
    ADMITTED,
    CONTROLLER,
    CONTROLLER_EPOCH,
    DRAINING,
    NO_LEADER,
    PARTITIONS,
    TOPICS,
    NodeRecord,
    decode_partition,
    decode_topic,
    encode_epochs,
    encode_node,
    encode_partition,
    encode_value,
)
from dduomq.cluster.ports import MetadataUnavailable, MetadataUnknown
from dduomq.errors import (
    DduomqError,
    InvalidPartitions,
    InvalidReplicaAssignment,
    InvalidReplicationFactor,
    TopicAlreadyExists,
)
from dduomq.log.settings import TopicSettings
from dduomq.observe import silent_log
from dduomq.testing.clock import SimClock
from dduomq.testing.store import Faults, MemoryEngine
from dduomq.wire.cluster_errors import (
    ElectionNotNeeded,
    NodeNotFound,
    NoReassignmentInProgress,
    PreferredLeaderNotAvailable,
)


class World:
    """One node's admin, among nodes that are only registered."""

    def __init__(self, engine, registration, routes, admin, cluster, members):
        self.engine = engine
        self.registration = registration
        self.routes = routes
        self.admin = admin
        self.cluster = cluster
        self.members = members

    def nodes(self, *ids, admitted=None):
        """Who is alive from now on."""
        for held in self.engine.state.scan("/nodes/"):
            if held.key != "/nodes/1":
                self.engine.delete(held.key)
        for node in ids:
            if node != 1:
                self.engine.put(f"/nodes/{node}", encode_node(NodeRecord(node, f"d{node}", (), "")))
        epochs = {int(v.key.removeprefix("/nodes/")): v.version for v in self.engine.state.scan("/nodes/")}
        self.engine.put(ADMITTED, encode_epochs(epochs if admitted is None else {n: epochs[n] for n in admitted}))

    def records(self):
        return [decode_partition(held.value) for held in self.engine.state.scan(PARTITIONS)]

    def topic(self, name):
        held = self.engine.state.get(TOPICS + name)
        return None if held is None else decode_topic(held.value)

    def put(self, record):
        self.engine.put(record.key, encode_partition(record))


class Members:
    """The quorum: who takes part in it."""

    def __init__(self):
        self.members = {1, 2, 3}
        self.fails = []

    async def forget(self, node_id):
        if self.fails:
            raise MetadataUnknown(self.fails.pop())
        self.members.discard(node_id)


@pytest.fixture
async def world(nursery):
    engine = MemoryEngine(Random(3))
    nursery.start_soon(engine.run)
    store, clock, routes, router = engine.store(1), SimClock(), Routes(1), Mailbox("router")
    registration = Registration(store, NodeRecord(1, "d1", ()), clock=clock, rng=Random(1), log=silent_log())
    await nursery.start(registration.run)
    members = Members()
    cluster = ClusterAdmin(store, registration, peers=(1, 2, 3), log=silent_log(), members=members)
    admin = Admin(
        store=store, routes=routes, router=router, clock=clock, rng=Random(2), log=silent_log(), cluster=cluster,
        defaults=TopicDefaults(4, True, {}),
    )  # fmt: skip
    made = World(engine, registration, routes, admin, cluster, members)
    nursery.start_soon(_route, router, made)
    made.nodes(1, 2, 3)
    await trio.sleep(1)
    return made


async def _route(router, world):
    """A router that believes whatever the metadata say."""
    while True:
        for message in await router.drain():
            assert isinstance(message, AwaitTopic)
            record, table = world.topic(message.name), dict(world.routes.table)
            table.pop(message.name, None)
            if record is not None:
                boxes = tuple(Mailbox(f"{record.name}-{at}") for at in range(record.partitions))
                table[record.name] = TopicRoute(record, TopicSettings.from_config(record.config), boxes, ())
            world.routes.table = table
            message.reply.set(None)


async def test_a_topic_has_three_replicas_of_which_two_must_have_a_record(world, autojump_clock):
    """Its partitions are written first, in few transactions, then the topic."""
    before = world.engine.transactions
    made = await world.admin.create_topic("t", partitions=90)
    assert world.engine.transactions - before <= 5
    assert (made.replication, made.config["min.insync.replicas"]) == (3, "2")
    assert len(world.records()) == 90
    assert all(len(r.replicas) == 3 and r.isr == r.replicas and r.leader == r.replicas[0] for r in world.records())
    assert world.topic("t") == made


@pytest.mark.parametrize(
    ("replication", "config", "insync"),
    [(1, {}, None), (2, {}, None), (2, {"min.insync.replicas": "3"}, "2"), (3, {"min.insync.replicas": "1"}, "1")],
)
async def test_what_must_be_in_sync_is_never_more_than_there_is(world, autojump_clock, replication, config, insync):
    """Two of three where nothing is said; what is said holds, capped."""
    made = await world.admin.create_topic("t", partitions=1, replication=replication, config=config)
    assert made.config.get("min.insync.replicas") == insync


async def test_replicas_are_of_nodes_that_live_unless_nobody_says_how_many(world, autojump_clock):
    """A number asked for must be there now; the default is that of the whole cluster, part of which may come later."""
    world.nodes(1, 2)
    await trio.sleep(1)
    with pytest.raises(InvalidReplicationFactor, match="2 nodes are alive"):
        await world.admin.create_topic("t", partitions=1, replication=3)
    await world.admin.create_topic("t", partitions=6)
    for record in world.records():
        assert set(record.replicas) == {1, 2, 3}
        assert set(record.isr) == {1, 2}
        assert record.leader in {1, 2}
    assert world.records()[0].topic_id == world.topic("t").topic_id


async def test_replicas_may_be_chosen_by_hand(world, autojump_clock):
    """At creation and for partitions added later."""
    with pytest.raises(InvalidReplicaAssignment, match="node 7 is not alive"):
        await world.admin.create_topic("t", assignment=[[1, 7]])
    await world.admin.create_topic("t", assignment=[[1, 2], [3, 1]])
    await world.admin.add_partitions("t", 3, assignment=[[2, 3]])
    assert [record.replicas for record in world.records()] == [(1, 2), (3, 1), (2, 3)]
    with pytest.raises(InvalidReplicaAssignment, match="replicas of 1 new"):
        await world.admin.add_partitions("t", 4, assignment=[[2, 3], [1, 2]])


async def test_a_topic_that_is_there_already_leaves_nothing_behind(world, autojump_clock):
    """Whoever is second takes its partitions away again."""
    await world.admin.create_topic("t", partitions=40)
    world.routes.table = {}
    with pytest.raises(TopicAlreadyExists):
        await world.admin.create_topic("t", partitions=40)
    assert {record.topic_id for record in world.records()} == {world.topic("t").topic_id}


async def test_a_topic_is_made_whole_or_not_at_all(world, autojump_clock):
    """Whatever the engine answers: a topic that is there has all of its partitions."""
    world.engine.faults = Faults(unknown=0.15, unavailable=0.05)
    outcomes = set()
    for at in range(40):
        try:
            await world.admin.create_topic(f"t{at}", partitions=40)
            outcomes.add("made")
        except (MetadataUnavailable, MetadataUnknown) as error:
            outcomes.add(type(error).__name__)
    assert outcomes == {"made", "MetadataUnavailable", "MetadataUnknown"}
    numbers = {}
    for record in world.records():
        numbers.setdefault(record.topic_id, set()).add(record.partition)
    for held in world.engine.state.scan(TOPICS):
        topic = decode_topic(held.value)
        assert numbers[topic.topic_id] == set(range(40))


async def test_partitions_are_added_with_replicas(world, autojump_clock):
    """What an earlier try left is written over; the number only rises."""
    topic = await world.admin.create_topic("t", partitions=2)
    left = attrs.evolve(world.records()[0], partition=2, replicas=(1,), isr=(1,))
    world.put(left)
    grown = await world.admin.add_partitions("t", 40)
    assert (grown.partitions, world.topic("t").partitions) == (40, 40)
    assert len(world.records()) == 40
    assert all(len(record.replicas) == 3 for record in world.records())
    with pytest.raises(InvalidPartitions):
        await world.admin.add_partitions("t", 40)
    assert topic.topic_id == grown.topic_id


async def test_a_topic_from_before_the_cluster_grows_as_it_was(world, autojump_clock):
    """One whose partitions have no records gets none."""
    await world.admin.create_topic("t", partitions=1)
    world.engine.delete(world.records()[0].key)
    await world.admin.add_partitions("t", 2)
    assert world.records() == []


async def test_a_deleted_topic_takes_its_partitions_along(world, autojump_clock):
    """And the places that the line protocol's groups have in it."""
    topic = await world.admin.create_topic("t", partitions=50)
    await world.admin.keep_line_places("g", "t", {0: 1})
    await world.admin.delete_topic("t")
    assert world.records() == []
    assert world.engine.state.scan(f"/line/{topic.topic_id}/") == []


async def test_a_move_is_begun_and_given_up(world, autojump_clock):
    """Compare and set: what the leader writes meanwhile is not lost."""
    topic = await world.admin.create_topic("t", assignment=[[1, 2]])
    moving = await world.cluster.reassign(topic, 0, [3, 2])
    assert (moving.replicas, moving.adding, moving.removing) == ((3, 2, 1), (3,), (1,))
    assert world.records() == [moving]
    world.put(attrs.evolve(moving, isr=(1, 2, 3), partition_epoch=moving.partition_epoch + 1))
    back = await world.cluster.reassign(topic, 0, None)
    assert (back.replicas, back.isr, back.partition_epoch) == ((2, 1), (1, 2), 3)
    with pytest.raises(NoReassignmentInProgress):
        await world.cluster.reassign(topic, 0, None)
    with pytest.raises(InvalidReplicaAssignment, match="node 9"):
        await world.cluster.reassign(topic, 0, [9])
    with pytest.raises(DduomqError, match="t-5 is not known"):
        await world.cluster.reassign(topic, 5, [1])


async def test_leaders_are_elected_on_demand(world, autojump_clock):
    """Preferred ones where that can be, and unclean ones where nothing else helps."""
    topic = await world.admin.create_topic("t", assignment=[[1, 2], [2, 1], [3, 1]])
    with pytest.raises(ElectionNotNeeded):
        await world.cluster.elect(topic, 0, unclean=False)
    first, second, third = world.records()
    world.put(attrs.evolve(first, leader=2))
    world.put(attrs.evolve(second, leader=1, isr=(1,)))
    elected = await world.cluster.elect_all([topic], unclean=False)
    assert [(one.record.partition, type(one.error)) for one in elected] == [
        (0, type(None)), (1, PreferredLeaderNotAvailable),
    ]  # fmt: skip
    assert world.records()[0].leader == 1
    world.nodes(1, 2)
    await trio.sleep(1)
    world.put(attrs.evolve(third, leader=NO_LEADER, isr=(3,)))
    elected = await world.cluster.elect_all([topic], unclean=True)
    assert [(one.record.partition, one.record.leader, one.record.is_recovering) for one in elected] == [(2, 1, True)]


async def test_a_member_that_is_away_and_keeps_nothing_is_there_until_it_is_removed(world, autojump_clock):
    """It came later, so no list of peers has it; its vote would stay for ever."""
    world.members.members.add(4)
    assert world.cluster.known == [1, 2, 3, 4]
    await world.cluster.drain(4, is_draining=True)
    world.members.fails = ["nobody knows what became of it"]
    with pytest.raises(MetadataUnknown):
        await world.cluster.remove(4)
    await world.cluster.remove(4)  # so it may be said again
    assert world.registration.nodes.draining == set()
    assert world.members.members == {1, 2, 3}
    assert world.cluster.known == [1, 2, 3]
    with pytest.raises(NodeNotFound, match="the cluster has no node 4; it has 1, 2, 3"):
        await world.cluster.remove(4)


async def test_nodes_are_drained_and_counted(world, autojump_clock):
    """Any node may ask; the node keeps its registration."""
    await world.admin.create_topic("t", partitions=3)
    epoch = world.registration.nodes.epoch(2)
    await world.cluster.drain(2, is_draining=True)
    await trio.sleep(1)
    assert world.registration.nodes.draining == {2}
    assert world.registration.nodes.epoch(2) == epoch
    made = await world.admin.create_topic("u", partitions=4, replication=2)
    assert all(2 not in record.replicas for record in world.records() if record.topic_id == made.topic_id)
    await world.cluster.drain(2, is_draining=False)
    assert world.engine.state.scan(DRAINING) == []
    with pytest.raises(NodeNotFound, match="the cluster has no node 9; it has 1, 2, 3"):
        await world.cluster.drain(9, is_draining=True)


async def test_moves_are_planned_for_a_node_that_is_to_go(world, autojump_clock):
    """Only what is on it is moved."""
    world.nodes(1, 2, 3, 4)
    await trio.sleep(1)
    await world.admin.create_topic("t", partitions=8, replication=2)
    moves = await world.cluster.plan_moves([4])
    assert sum(len(move.added) for move in moves) == sum(4 in record.replicas for record in world.records())
    assert all(4 not in move.replicas for move in moves)


async def test_who_is_the_controller_is_told(world, autojump_clock):
    """Or that nobody is."""
    assert (await world.cluster.standing()).controller == NO_LEADER
    world.engine.put(CONTROLLER, encode_value(2))
    world.engine.put(CONTROLLER_EPOCH, encode_value(7))
    standing = await world.cluster.standing()
    assert (standing.controller, standing.controller_epoch) == (2, 7)
