"""Nodes register, one of them is the controller, and partitions have leaders that live."""

from contextlib import suppress
from functools import partial
from random import Random

import attrs
import pytest
import trio

from dduomq.actors.controller import Controller
from dduomq.actors.controller_image import ControllerImage
from dduomq.actors.registration import NodeIdTaken, Nodes, Registration
from dduomq.actors.supervisor import Supervisor
from dduomq.cluster.image import (
    ADMITTED,
    CONTROLLER,
    CONTROLLER_EPOCH,
    DRAINING,
    NO_LEADER,
    NODES,
    PARTITIONS,
    TOPICS,
    NodeRecord,
    PartitionRecord,
    SeenRecord,
    TopicRecord,
    decode_epochs,
    decode_partition,
    decode_value,
    encode_node,
    encode_partition,
    encode_topic,
    encode_value,
    partition_key,
)
from dduomq.cluster.ports import Check, MetadataConflict, MetadataUnavailable, MetadataUnknown, Put
from dduomq.limits import ORPHAN_GRACE_MS, PREFERRED_GRACE_MS
from dduomq.observe import silent_log
from dduomq.testing.clock import SimClock
from dduomq.testing.store import Faults, MemoryEngine

SETTLED_S = 5


class World:
    """Nodes that are nothing but registered, and that may be the controller."""

    def __init__(self, nursery, engine):
        self.nursery = nursery
        self.engine = engine
        self.clock = SimClock()
        self.running = {}

    async def start(self, node_id, *, session_timeout_s=1.0, **options):
        """A node, until it counts as alive."""
        scope = trio.CancelScope()
        store = self.engine.store(node_id, session_timeout_s)
        record = NodeRecord(node_id, f"directory-{node_id}", (), **options)
        registration = Registration(store, record, clock=self.clock, rng=Random(node_id), log=silent_log())
        await self.nursery.start(self._run, scope, store, registration)
        await registration.admitted()
        await trio.sleep(0.1)  # the controller hears of what it has admitted no sooner than others
        return registration

    async def _run(self, scope, store, registration, task_status):
        with scope:
            async with trio.open_nursery() as nursery:
                controller = Controller(
                    store, registration, supervisor=Supervisor(nursery, silent_log()), clock=self.clock,
                    is_unclean=lambda topic: topic.config.get("unclean.leader.election.enable") == "true",
                    rng=Random(registration.node_id), log=silent_log(),
                )  # fmt: skip
                self.running[registration.node_id] = (scope, registration, controller)
                await nursery.start(registration.run)
                controller.start(nursery)
                task_status.started()

    async def stop(self, node_id):
        """In good order."""
        self.running.pop(node_id)[0].cancel()
        await trio.sleep(0.01)

    async def kill(self, node_id):
        """As power does it: nobody is told."""
        self.engine.pause(node_id)
        await self.stop(node_id)
        self.engine.resume(node_id)

    def topic(self, name, assignment, **config):
        """A topic that has just been made."""
        replication = len(assignment[0])
        record = TopicRecord(name, f"id-{name}", len(assignment), replication, config, 0)
        for at, replicas in enumerate(assignment):
            self.put(PartitionRecord(name, record.topic_id, at, replicas, replicas[0], 0, replicas))
        self.engine.put(record.key, encode_topic(record))
        return record

    def put(self, record):
        self.engine.put(record.key, encode_partition(record))

    def get(self, name, at=0):
        held = self.engine.state.get(partition_key(f"id-{name}", at))
        return None if held is None else decode_partition(held.value)

    def all(self):
        return [decode_partition(held.value) for held in self.engine.state.scan(PARTITIONS)]

    def controller(self):
        held = self.engine.state.get(CONTROLLER)
        return None if held is None else decode_value(held.value)

    def epoch(self):
        return decode_value(self.engine.state.get(CONTROLLER_EPOCH).value)


@pytest.fixture
async def world(nursery):
    engine = MemoryEngine(Random(7))
    nursery.start_soon(engine.run)
    return World(nursery, engine)


async def test_one_node_is_the_controller_and_another_takes_over(world, autojump_clock):
    """Each has a higher epoch; a node that stops in good order leaves no gap."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    await trio.sleep(1)
    first, epoch = world.controller(), world.epoch()
    assert [n for n, (_, _, c) in world.running.items() if c.epoch] == [first]
    await world.stop(first)
    await trio.sleep(0.5)
    assert world.controller() not in {None, first}
    assert world.epoch() == epoch + 1
    assert world.running[world.controller()][2].epoch == epoch + 1


async def test_a_dead_node_leads_nothing_and_is_in_no_set(world, autojump_clock):
    """Others of the set lead; where none is left there is no leader, until it comes back."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    world.topic("t", [(1, 2, 3), (2, 1, 3), (1,)])
    await trio.sleep(SETTLED_S)
    await world.kill(1)
    await trio.sleep(SETTLED_S)
    assert (world.get("t").leader, world.get("t").isr, world.get("t").leader_epoch) == (2, (2, 3), 1)
    assert (world.get("t", 1).leader, world.get("t", 1).isr, world.get("t", 1).leader_epoch) == (2, (2, 3), 0)
    assert (world.get("t", 2).leader, world.get("t", 2).isr) == (NO_LEADER, (1,))
    assert {record.controller_epoch for record in world.all()} <= {world.epoch(), world.epoch() - 1}
    await world.start(1)
    await trio.sleep(SETTLED_S)
    assert (world.get("t", 2).leader, world.get("t", 2).leader_epoch) == (1, 2)
    assert world.get("t").isr == (2, 3), "it comes back by catching up, which its leader sees"


async def test_a_node_that_comes_back_quickly_was_away_all_the_same(world, autojump_clock):
    """Its record has another version: it leaves the sets before it is admitted, whoever is the controller then."""
    for node_id in (1, 2):
        await world.start(node_id)
    world.topic("t", [(1, 2), (2, 1)])
    await trio.sleep(SETTLED_S)
    for node_id in (world.controller(), 3 - world.controller()):
        before = world.get("t").partition_epoch
        world.put(attrs.evolve(world.get("t"), isr=(1, 2), leader=node_id, partition_epoch=before + 1))
        await trio.sleep(1)
        await world.kill(node_id)
        registration = await world.start(node_id)
        await trio.sleep(SETTLED_S)
        assert world.get("t").isr == (3 - node_id,)
        assert world.get("t").leader == 3 - node_id
        assert registration.is_admitted
        admitted = decode_epochs(world.engine.state.get(ADMITTED).value)
        assert admitted == registration.nodes.epochs


async def test_the_whole_cluster_may_restart_at_once(world, autojump_clock):
    """Everybody of the set is as good as everybody else then, so that one of them leads."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    world.topic("t", [(1, 2, 3)])
    await trio.sleep(SETTLED_S)
    for node_id in (1, 2, 3):
        world.engine.pause(node_id)
    for node_id in (1, 2, 3):
        await world.stop(node_id)
    await trio.sleep(SETTLED_S)
    for node_id in (3, 2):
        world.engine.resume(node_id)
        await world.start(node_id)
    await trio.sleep(SETTLED_S)
    assert world.get("t").leader in {2, 3}
    assert set(world.get("t").isr) <= {2, 3}


async def test_an_unclean_election_only_where_the_topic_allows_it(world, autojump_clock):
    """The setting may come later: it takes effect at once."""
    for node_id in (1, 2):
        await world.start(node_id)
    topic = world.topic("t", [(1, 2)])
    world.put(attrs.evolve(world.get("t"), isr=(1,)))
    await trio.sleep(SETTLED_S)
    await world.kill(1)
    await trio.sleep(SETTLED_S)
    assert world.get("t").leader == NO_LEADER
    changed = attrs.evolve(topic, config={"unclean.leader.election.enable": "true"})
    world.engine.put(topic.key, encode_topic(changed))
    await trio.sleep(SETTLED_S)
    assert (world.get("t").leader, world.get("t").isr, world.get("t").is_recovering) == (2, (2,), True)


async def test_who_drains_leads_nothing_and_who_leaves_hands_over(world, autojump_clock):
    """An operator's wish lasts; that of a node about to stop is gone with it."""
    nodes = {node_id: await world.start(node_id) for node_id in (1, 2, 3)}
    world.topic("t", [(1, 2, 3), (2, 3, 1), (3, 1, 2)])
    await trio.sleep(SETTLED_S)
    world.engine.put(f"{DRAINING}1", encode_value(1))
    await trio.sleep(SETTLED_S)
    assert {record.leader for record in world.all()} == {2, 3}
    assert nodes[2].nodes.records[1].is_draining
    assert all(record.isr == record.replicas for record in world.all()), "nobody was away"
    assert await nodes[2].leave(10)
    assert {record.leader for record in world.all()} == {3}
    await world.stop(2)
    await world.start(2)
    await trio.sleep(1)
    assert nodes[3].nodes.draining == {1}


async def test_preferred_leaders_lead_again_after_a_while(world, autojump_clock):
    """Not at once, lest a node that comes and goes takes everything along."""
    for node_id in (1, 2):
        await world.start(node_id)
    world.topic("t", [(1, 2), (2, 1)])
    world.put(attrs.evolve(world.get("t"), leader=2))
    await trio.sleep(SETTLED_S)
    assert world.get("t").leader == 2
    await trio.sleep(PREFERRED_GRACE_MS / 1000)
    assert world.get("t").leader == 1


async def test_a_move_is_brought_to_its_end(world, autojump_clock):
    """When the leader has taken the new replica into the set."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    world.topic("t", [(1, 2)])
    world.put(attrs.evolve(world.get("t"), replicas=(3, 2, 1), adding=(3,), removing=(1,), isr=(1, 2)))
    await trio.sleep(SETTLED_S)
    assert world.get("t").adding == (3,)
    world.put(attrs.evolve(world.get("t"), isr=(1, 2, 3), partition_epoch=5))
    await trio.sleep(SETTLED_S)
    record = world.get("t")
    assert (record.replicas, record.isr, record.leader, record.adding, record.removing) == ((3, 2), (2, 3), 3, (), ())


async def test_what_is_left_of_a_topic_is_swept_after_a_while(world, autojump_clock):
    """Not before its maker has surely given up; and not if the topic is there after all."""
    await world.start(1)
    late = PartitionRecord("late", "id-late", 0, (1,), 1, 0, (1,))
    world.put(PartitionRecord("left", "id-left", 0, (1,), 1, 0, (1,)))
    world.put(late)
    kept = world.topic("kept", [(1,)])
    world.put(attrs.evolve(world.get("kept"), partition=1))
    await trio.sleep(ORPHAN_GRACE_MS / 2000)
    assert len(world.all()) == 4
    world.engine.put(TOPICS + "late", encode_topic(attrs.evolve(kept, name="late", topic_id="id-late")))
    await trio.sleep(ORPHAN_GRACE_MS / 1000)
    assert {record.key for record in world.all()} == {late.key, partition_key("id-kept", 0)}


async def test_partitions_that_lack_a_record_get_one(world, autojump_clock):
    """A topic has grown, and whoever let it grow died over it."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    topic = world.topic("t", [(1, 2)])
    world.engine.put(topic.key, encode_topic(attrs.evolve(topic, partitions=3)))
    await trio.sleep(ORPHAN_GRACE_MS / 1000 + SETTLED_S)
    assert [len(record.isr) for record in world.all()] == [2, 2, 2]
    assert {record.leader for record in world.all()} == {1, 2, 3}


async def test_a_deposed_controller_leaves_no_trace(world, autojump_clock):
    """While it is cut off another one is elected; whatever it had on its way is refused."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    await trio.sleep(1)
    first = world.controller()
    world.topic("t", [(1, 2, 3)] * 30)
    await trio.sleep(1)
    world.engine.pause(first)
    await trio.sleep(SETTLED_S)
    assert world.controller() != first
    assert world.running[first][2].epoch == 0
    assert all(first not in record.isr and record.leader != first for record in world.all())
    world.engine.resume(first)
    await trio.sleep(SETTLED_S)
    assert world.running[first][1].is_admitted
    assert world.controller() != first


class Wavering:
    """A session that may not count for a moment, and is not lost for that."""

    def __init__(self, session):
        self.session = session
        self.timeout_s = session.timeout_s
        self.counts = True

    @property
    def is_valid(self):
        return self.counts and self.session.is_valid

    async def wait_lost(self):
        await self.session.wait_lost()


async def test_a_controller_whose_session_counts_again_is_it_again(world, autojump_clock):
    """Nobody else may become it, as the session is not lost, and nobody says that it counts again."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    world.topic("t", [(2, 1, 3), (3, 1, 2), (1, 2, 3)])
    await trio.sleep(1)
    for _, registration, _ in world.running.values():
        registration.session = Wavering(registration.session)
    world.running[world.controller()][2]._clerk.resign()
    await trio.sleep(1)
    first = world.controller()
    _, registration, controller = world.running[first]
    assert controller.epoch == world.epoch() == 2
    session = registration.session
    session.counts = False
    victim = next(node_id for node_id in (1, 2, 3) if node_id != first)
    await world.kill(victim)
    await trio.sleep(SETTLED_S)
    assert controller.epoch == 0
    assert any(record.leader == victim for record in world.all())
    session.counts = True
    await trio.sleep(SETTLED_S)
    assert controller.epoch == world.epoch()
    assert not any(record.leader == victim or victim in record.isr for record in world.all())


async def test_nothing_begins_when_a_reign_is_ending(world, autojump_clock):
    """Whatever the controller asks for meanwhile: its actor does not crash for it, and the reign ends."""
    await world.start(1)
    clerk = world.running[1][2]._clerk
    clerk.resign()
    for _ in range(100):
        if clerk.epoch == 0:
            break
        clerk.read({})
        await trio.lowlevel.checkpoint()
    assert clerk.epoch == 0
    await trio.sleep(SETTLED_S)
    assert clerk.epoch == world.epoch()


async def test_two_nodes_of_one_number_do_not_live_together(world, autojump_clock):
    """The second one says what to do; the first goes on."""
    first = await world.start(1)
    record = NodeRecord(1, "another directory", ())
    second = Registration(world.engine.store(1), record, clock=world.clock, rng=Random(9), log=silent_log())
    with pytest.raises(NodeIdTaken, match="is number 1 already: give this one a number"):
        await second.run()
    assert first.is_registered
    world.engine.delete("/nodes/1")
    await trio.sleep(SETTLED_S)
    assert first.nodes.epoch(1) == first.epoch > 0, "a record that somebody removed is written again"


@pytest.mark.parametrize("seed", range(8))
async def test_whatever_happens_it_ends_well(world, autojump_clock, seed):
    """Nodes die and come back, are cut off, are given no answer: at the end every partition has a leader in sync."""
    rng, engine = Random(seed), world.engine
    for node_id in (1, 2, 3, 4):
        await world.start(node_id)
    world.topic("t", [tuple(rng.sample((1, 2, 3, 4), 3)) for _ in range(40)])
    engine.faults = Faults(conflict=0.05, unknown=0.05, unavailable=0.05, resync=0.1)
    for _ in range(12):
        node_id = rng.choice((1, 2, 3, 4))
        if node_id not in world.running:
            await world.start(node_id)
        elif rng.random() < 0.5:
            await world.kill(node_id)
        elif rng.random() < 0.5:
            engine.pause(node_id)
            await trio.sleep(rng.uniform(0, 3))
            engine.resume(node_id)
        else:
            engine.expire(node_id)
        await trio.sleep(rng.uniform(0, 3))
        check_always(world.all())
    engine.faults = Faults()
    for node_id in (1, 2, 3, 4):
        if node_id not in world.running:
            await world.start(node_id)
    await trio.sleep(60)
    check_always(world.all())
    assert all(record.leader != NO_LEADER for record in world.all())
    status = await world.running[world.controller()][2].status()
    assert (status.waiting, status.writing, status.partitions) == (0, 0, 40)


class Leaders:
    """What leaders do: take replicas into the set that have caught up, under the epoch that those fetched with.

    `joined`: the registration under which each came into its set. The engine itself tells of that: who asks for a
    change is not always told whether it was made, and by the time it looks the record may be another one again.
    """

    def __init__(self, world, rng):
        self.world = world
        self.rng = rng
        self.joined = {}
        self._sets = {}
        world.engine.attach(self)

    def tell(self, change, *, resync):
        """A key has changed: who is in its set now and was not before has joined just now."""
        if not change.key.startswith(PARTITIONS):
            return
        isr = decode_partition(change.value).isr
        for node in set(isr) - set(self._sets.get(change.key, ())):
            self.joined[change.key, node] = self.world.engine.state.get(f"{NODES}{node}").version
        self._sets[change.key] = isr

    async def run(self):
        while True:
            await trio.sleep(self.rng.uniform(0.001, 0.02))
            record = self.rng.choice(self.world.all())
            held = self.world.engine.state.get(record.key)
            epochs = {node: registration.epoch for node, (_, registration, _) in self.world.running.items()}
            # without a registration a node has no epoch to fetch under: 0 would ask that it has none
            ready = [node for node in record.replicas if node not in record.isr and epochs.get(node)]
            if not ready or record.leader not in epochs:
                continue
            node = self.rng.choice(ready)
            wider = attrs.evolve(record, isr=(*record.isr, node), partition_epoch=record.partition_epoch + 1)
            operations = [Check(held.key, held.version), Check(f"{NODES}{node}", epochs[node])]
            with suppress(MetadataConflict, MetadataUnavailable, MetadataUnknown):
                store = self.world.engine.store(record.leader)
                await store.txn([*operations, Put(held.key, encode_partition(wider))])


@pytest.mark.parametrize(("seed", "unavailable"), [*((seed, 0.05) for seed in range(8)), (8, 0.2)])
async def test_who_is_in_sync_joined_under_the_registration_of_now(world, nursery, autojump_clock, seed, unavailable):
    """While one node stays, nobody else is in a set for what it was before it went: however quickly it came back."""
    rng, engine = Random(seed), world.engine
    for node_id in (1, 2, 3):
        await world.start(node_id)
    # it stays, however many of its beats get lost: were all of a set away at once, they would rightly stay in it
    staying = await world.start(4, session_timeout_s=3_600)
    first = staying.epoch
    leaders = Leaders(world, rng)
    world.topic("t", [(*rng.sample((1, 2, 3), 2), 4) for _ in range(30)])
    nursery.start_soon(leaders.run)
    engine.faults = Faults(conflict=0.05, unknown=0.05, unavailable=unavailable, resync=0.2, latency_s=(0.001, 0.1))
    for _ in range(25):
        node_id = rng.choice((1, 2, 3))
        if rng.random() < 0.7:
            await world.kill(node_id)
            await world.start(node_id)
        else:
            engine.expire(node_id)
        await trio.sleep(rng.choice((0, 0, 0.1, 2)))
    engine.faults = Faults()
    await trio.sleep(30)
    check_always(world.all())
    assert staying.epoch == first
    for record in world.all():
        assert set(record.isr) == set(record.replicas)
        for node in record.isr:
            assert leaders.joined[record.key, node] == world.running[node][1].epoch, (record, node)


def check_always(records):
    for record in records:
        assert record.leader == NO_LEADER or record.leader in record.isr
        assert set(record.isr) <= set(record.replicas)
        assert record.isr
        assert record.leader_epoch <= record.partition_epoch
        assert not record.is_recovering


@pytest.mark.parametrize("outlasts_s", [2.5, 8.0])
async def test_after_a_blackout_who_is_back_is_preferred_to_who_is_still_counted(world, autojump_clock, outlasts_s):
    """Two come back at once, and the session of the third outlasts them: it must say that it lives."""
    for node_id in (1, 2, 3):
        await world.start(node_id, session_timeout_s=outlasts_s)
    world.topic("t", [(1, 2, 3), (2, 3, 1), (3, 1, 2), (3,)])
    await trio.sleep(SETTLED_S)
    for node_id in (1, 2, 3):
        await world.kill(node_id)
    async with trio.open_nursery() as nursery:
        for node_id in (1, 2):
            nursery.start_soon(partial(world.start, node_id, session_timeout_s=outlasts_s))
    await trio.sleep(4 * outlasts_s)
    assert [world.get("t", at).leader for at in range(4)] == [1, 2, 1, NO_LEADER]
    assert [sorted(world.get("t", at).isr) for at in range(4)] == [[1, 2], [1, 2], [1, 2], [3]]
    check_always(world.all())


@pytest.mark.parametrize("outlasts_s", [1.0, 10.0])
async def test_of_two_that_died_together_the_one_that_is_back_leads(world, autojump_clock, outlasts_s):
    """The controller lived on; it waits until the other is known to be dead, too, however long its session lasts."""
    for node_id in (1, 2):
        await world.start(node_id)
    await world.start(3, session_timeout_s=outlasts_s)
    assert world.controller() == 1
    world.topic("t", [(2, 3), (3, 2), (1, 2)])
    await trio.sleep(SETTLED_S)
    for node_id in (2, 3):
        await world.kill(node_id)
    await world.start(2)
    await trio.sleep(SETTLED_S)
    assert [(world.get("t", at).leader, world.get("t", at).isr) for at in (0, 1)] == [(2, (2,)), (2, (2,))]
    assert world.get("t", 2).isr == (1,)


@pytest.mark.parametrize("is_faulty", [False, True])
@pytest.mark.parametrize("seed", range(12))
async def test_after_a_blackout_whoever_is_back_leads(world, autojump_clock, seed, is_faulty):
    """Of five nodes some are back after a while, whatever the engine does meanwhile, and whosever session lasts."""
    rng, engine = Random(seed), world.engine
    for node_id in range(1, 6):
        await world.start(node_id, session_timeout_s=rng.choice((1.0, 1.0, 2.0, 3.0)))
    world.topic("t", [tuple(rng.sample(range(1, 6), 3)) for _ in range(20)])
    await trio.sleep(SETTLED_S)
    if is_faulty:
        engine.faults = Faults(conflict=0.05, unknown=0.1, unavailable=0.05, resync=0.2, latency_s=(0.001, 0.03))
    for node_id in range(1, 6):
        await world.kill(node_id)
    back = rng.sample(range(1, 6), rng.choice((2, 3, 4)))

    async def come(node_id):
        await trio.sleep(rng.uniform(0, 0.6))
        await world.start(node_id, session_timeout_s=3.0)

    async with trio.open_nursery() as nursery:
        for node_id in back:
            nursery.start_soon(come, node_id)
    engine.faults = Faults()
    await trio.sleep(3 * SETTLED_S)
    check_always(world.all())
    for record in world.all():
        assert (record.leader in back) == bool(set(record.replicas) & set(back)), (record, back)


async def test_who_says_nothing_is_not_waited_for_without_end_and_only_once(world, autojump_clock):
    """The session of node 3 goes on, and it never says whom it sees."""
    for node_id in (1, 2):
        await world.start(node_id)
    silent = NodeRecord(3, "directory-3", ())
    world.engine.put(silent.key, encode_node(silent))
    await trio.sleep(2 * SETTLED_S)
    world.topic("t", [(1, 2, 3), (2, 1, 3)])
    await trio.sleep(1)
    victim = 3 - world.controller()
    await world.kill(victim)
    await trio.sleep(SETTLED_S)
    assert {world.get("t", at).leader for at in (0, 1)} == {3 - victim}
    assert world.get("t").isr == tuple(node for node in (1, 2, 3) if node != victim)
    with trio.fail_after(1):
        await world.start(victim)


async def test_who_says_nothing_is_given_up_though_nodes_come_and_go_all_the_while(world, nursery, autojump_clock):
    """Each that comes or goes is something new to be seen; who has seen nothing for long is known by then."""
    for node_id in (1, 2):
        await world.start(node_id)
    silent, other = (NodeRecord(node_id, f"directory-{node_id}", ()) for node_id in (3, 9))
    world.engine.put(silent.key, encode_node(silent))
    await trio.sleep(2 * SETTLED_S)
    world.topic("t", [(1, 2, 3), (2, 1, 3)])

    async def come_and_go():
        while True:
            world.engine.put(other.key, encode_node(other))
            await trio.sleep(0.5)
            world.engine.delete(other.key)
            await trio.sleep(0.5)

    nursery.start_soon(come_and_go)
    victim = world.controller()
    await world.kill(victim)
    await trio.sleep(2 * SETTLED_S)
    assert {world.get("t", at).leader for at in (0, 1)} == {3 - victim}


def test_a_node_that_speaks_again_is_waited_for_again():
    """It was given up, has said since what is so, and says nothing when the nodes are those of before once more."""

    def look(epochs, said):
        image.set_nodes(Nodes({}, epochs, {}, seen={2: SeenRecord(said, 1_000)}))
        return image._is_agreed

    image = ControllerImage(7, {1: 1, 2: 2}, lambda _topic: False, own=(1, 1), timeout_ms=1_000)
    two, three = {1: 1, 2: 2}, {1: 1, 2: 2, 3: 3}
    assert look(two, two)
    assert not look(three, two)
    assert [image.give_up(now_ms) for now_ms in (1_000, 3_999, 4_000, 5_000)] == [[], [], [2], []]
    assert look(three, two)
    assert look(two, two)
    assert not look(three, two)


async def test_many_partitions_take_few_transactions(world, autojump_clock):
    """A node of three dies that had to do with all of 1,400 partitions: fourteen of them are changed at once."""
    for node_id in (1, 2, 3):
        await world.start(node_id)
    world.topic("t", [((1, 2, 3), (2, 3, 1), (3, 1, 2))[at % 3] for at in range(1_400)])
    await trio.sleep(SETTLED_S)
    victim = next(node for node in (1, 2, 3) if node != world.controller())
    before = world.engine.transactions
    await world.kill(victim)
    await trio.sleep(SETTLED_S)
    assert all(victim not in record.isr and record.leader != victim for record in world.all())
    assert world.engine.transactions - before <= 110


def test_a_picture_of_nodes_knows_who_counts():
    """Admitted is who is registered under the epoch that the controller has dealt with."""
    nodes = Nodes({}, {1: 5, 2: 6}, {1: 5, 2: 4, 3: 3})
    assert [nodes.is_admitted(node) for node in (1, 2, 3)] == [True, False, False]
    assert nodes.epoch(3) == 0
